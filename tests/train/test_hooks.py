"""A recipe's own code: what it may add, and that it runs only where it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from shoal.cli import build_app
from shoal.train.config import Recipe, RecipeError, Source, load_recipe
from shoal.train.corpora import read_corpus, read_held_out
from shoal.train.hooks import load_hooks
from shoal.train.run import TrainingRequest, run_training
from tests.train.builders import make_stories, write_jsonl
from tests.train.test_run import RECIPE

CODE = """
import torch
from shoal.train.pieces import plain
from shoal.train.hooks import RecipeHooks
from .words import SUFFIX
from ..shared.marks import MARK

def read(records, source, context):
    for record in records:
        yield [plain(record["story"] + SUFFIX + MARK)]

def initialize(network, corpus, tokenizer):
    with torch.no_grad():
        network.model.norm.weight.fill_(len(corpus.train))

HOOKS = RecipeHooks(readers={"story": read}, initialize=initialize)
"""


def write_recipe(root: Path, mark: str = "!") -> Path:
    folder = root / "my.recipe"
    (root / "shared").mkdir(parents=True)
    folder.mkdir()
    (root / "shared" / "marks.py").write_text(f"MARK = {mark!r}\n")
    (folder / "words.py").write_text('SUFFIX = " The end"\n')
    (folder / "code.py").write_text(CODE)
    (folder / "recipe.toml").write_text(
        RECIPE.replace('name = "tiny"', 'name = "tiny"\ncode = "code.py"').replace(
            'file = "own.jsonl"', 'file = "own.jsonl"\nformat = "story"'
        )
    )
    write_jsonl(folder / "own.jsonl", [{"story": story, "text": story} for story in make_stories()])
    return folder


def test_code_reads_formats_and_initializes_and_imports_its_neighbours(tmp_path: Path) -> None:
    for mark in ("!", "?"):  # equal names in another place are other code
        folder = write_recipe(tmp_path / str(ord(mark)), mark)
        recipe = load_recipe(folder)
        corpus = read_corpus(recipe, folder, load_hooks(recipe.code).readers)
        text = corpus.train[0].variants[0][1].text
        assert text.endswith(f"The end{mark}<|endoftext|>")


def test_a_run_uses_the_hooks(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    request = TrainingRequest(
        out=tmp_path / "out",
        data=folder,
        recipe=folder,
        tokens=1,
        run_dir=tmp_path / "run",
        device="cpu",
    )
    result = run_training(request)
    recipe = load_recipe(folder)
    documents = read_corpus(recipe, folder, load_hooks(recipe.code).readers).train
    assert result.progress.losses
    norm = load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"]
    assert float(norm.float().mean()) == pytest.approx(len(documents), rel=0.01)


def test_reading_a_recipe_runs_nothing(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    (folder / "code.py").write_text("raise SystemExit")
    assert load_recipe(folder).code == folder / "code.py"


def test_the_command_line_says_which_code_it_runs_before_it_does(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    (folder / "code.py").write_text("raise SystemExit(7)")
    options = ["train", "--out", str(tmp_path / "out"), "--data", str(folder)]
    result = CliRunner().invoke(build_app(False), [*options, "--recipe", str(folder)])
    assert result.exit_code == 7
    assert f"running the recipe's own code: {folder / 'code.py'}" in result.stdout


@pytest.mark.parametrize("code", ["../code.py", "code.txt", "/tmp/code.py", 3])
def test_code_is_a_python_file_beside_the_recipe(tmp_path: Path, code: object) -> None:
    (tmp_path / "recipe.toml").write_text(f'name = "a"\ncode = {code!r}\n')
    with pytest.raises(RecipeError, match="expected a Python file beside the recipe"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (None, "does not exist"),
        ("HOOKS = 3", "defines no HOOKS"),
        ("import not_installed_anywhere", "needs the package not_installed_anywhere"),
    ],
)
def test_code_that_cannot_be_used_is_a_plain_error(
    tmp_path: Path, code: str | None, expected: str
) -> None:
    if code is not None:
        (tmp_path / "code.py").write_text(code)
    with pytest.raises(RecipeError, match=expected):
        load_hooks(tmp_path / "code.py")


def test_an_unknown_format_names_those_that_the_recipe_has(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    recipe = Recipe(name="a", sources=(Source(file="own.jsonl", format="poem"),))
    readers = load_hooks(folder / "code.py").readers
    with pytest.raises(RecipeError, match=r"known are \['story', 'text'\]"):
        read_corpus(recipe, folder, readers)


def test_held_out_documents_are_the_same_read_alone(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    recipe = load_recipe(folder)
    readers = load_hooks(recipe.code).readers
    held_out = read_held_out(recipe, folder, readers)
    assert held_out == read_corpus(recipe, folder, readers).held_out
    assert held_out["own"]
