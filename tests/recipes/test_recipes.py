"""The shipped recipes: what they state, what their code may import, that each of them trains."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.train.config import load_recipe
from shoal.train.hooks import load_hooks
from shoal.train.progress import TrainingResult
from shoal.train.run import TrainingRequest, run_training
from tests.train.builders import make_stories, write_jsonl

RECIPES = Path(__file__).parents[2] / "models" / "recipes"
CORPORA = Path(__file__).parents[3] / "shared" / "data" / "corpora"
NAMES = ["minnow", "pilotfish"]

TINY = """
extends = "{recipe}"
[model]
hidden_size = 128
intermediate_size = 96
num_layers = 2
num_heads = 2
num_kv_heads = 1
head_dim = 32
context = 128
[tokenizer]
vocab_size = 420
[schedule]
tokens = 6_000
batch_tokens = 1024
warmup_steps = 2
evaluate_every = 1000
"""


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_parse_and_state_origin_licence_and_checksum(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.parent.name
    assert recipe.code == path.parent / "recipe.py"
    readers = {"text", *load_hooks(recipe.code).readers}
    for source in recipe.sources:
        assert source.format in readers
        assert source.title
        assert source.origin
        assert source.licence
        assert len(source.sha256) == 64


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports; relative ones as `models.recipes...`."""
    package = ["models", *file.relative_to(RECIPES.parent).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *filter(None, [node.module])])


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*/*.py")), ids=lambda file: file.stem)
def test_a_recipe_imports_the_trainer_what_is_shared_and_itself(file: Path) -> None:
    own = {f"models.recipes.{folder}" for folder in ("common", file.parent.name)}
    for module in imports(file):
        if module.startswith("shoal"):
            assert module.startswith(("shoal.train.", "shoal.checkpoint.")), module
        if module.startswith("models"):
            assert module.startswith(tuple(f"{name}." for name in own)), module


def write_minnow_data(folder: Path) -> str:
    records: list[dict[str, object]] = [
        {"text": story, "title": "A day"} for story in make_stories()
    ]
    write_jsonl(folder / "stories.jsonl", records)
    write_jsonl(folder / "lower.jsonl", [{"text": str(r["text"]).lower()} for r in records])
    (folder / "book.txt").write_text("# ONE\n\n" + "\n\n".join(make_stories()))
    return """
        [[sources]]
        file = "stories.jsonl"
        format = "stories"
        hold_out_share = 0.1
        [[sources]]
        file = "lower.jsonl"
        format = "lowercase-stories"
        options = { names = ["Tom", "Mia"] }
        [[sources]]
        file = "stories.jsonl"
        format = "titled-stories"
        [[sources]]
        file = "book.txt"
        format = "books"
    """


def write_pilotfish_data(folder: Path) -> str:
    things = ("ball", "boat", "lamp", "shirt", "phone", "chair")
    texts = {"buy": "i want to buy a {}", "mend": "the {} is broken"}
    write_jsonl(
        folder / "intents.jsonl",
        [
            {"text": text.format(thing), "intent": intent}
            for intent, text in texts.items()
            for thing in things
        ],
    )
    slots = [{"slot": "track", "value": "Old Song", "start": 5}]
    write_jsonl(
        folder / "slots.jsonl",
        [
            {"text": "play Old Song now", "intent": "Play", "slots": slots, "id": n}
            for n in range(8)
        ],
    )
    state = {"intent": "Find", "slots": {"city": "Rome"}}
    turns = [{"speaker": "user", "text": "food in Rome", "state": [state]}]
    write_jsonl(folder / "turns.jsonl", [{"services": ["Homes_1"], "turns": turns}] * 4)
    return """
        [[sources]]
        file = "intents.jsonl"
        format = "intents"
        name = "shop"
        hold_out_share = 0.2
        options = { task = "shop", synthetic = 3 }
        [[sources]]
        file = "slots.jsonl"
        format = "snips"
        options = { task = "snips", open_slots = ["track"] }
        [[sources]]
        file = "turns.jsonl"
        format = "dialogue-state"
        [[sources]]
        file = "turns.jsonl"
        format = "out-of-scope"
        options = { task = "shop", services = ["Homes_1"] }
        [[sources]]
        file = "turns.jsonl"
        format = "dialogue-turns"
        background = true
    """


WRITE_DATA = {"minnow": write_minnow_data, "pilotfish": write_pilotfish_data}


def train(folder: Path, recipe: Path, data: Path, tokens: int | None = None) -> TrainingResult:
    return run_training(
        TrainingRequest(
            out=folder / "model",
            data=data,
            recipe=recipe,
            tokens=tokens,
            run_dir=folder / "run",
            device="cpu",
        )
    )


def assert_loss_falls(result: TrainingResult) -> None:
    losses = [loss for _, loss in result.progress.losses]
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_trains_on_data_of_its_own_formats(name: str, tmp_path: Path) -> None:
    recipe = TINY.format(recipe=RECIPES / name / "recipe.toml")
    (tmp_path / "recipe.toml").write_text(recipe + WRITE_DATA[name](tmp_path))
    result = train(tmp_path, tmp_path, tmp_path)
    assert_loss_falls(result)
    assert list(result.held_out) == [
        {"minnow": "bits_per_byte stories", "pilotfish": "exact shop"}[name]
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not CORPORA.is_dir(), reason="needs ../shared/data/corpora")
@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_starts_on_its_real_data(name: str, tmp_path: Path) -> None:
    settings = f'extends = "{RECIPES / name / "recipe.toml"}"\n'
    text = (RECIPES / name / "recipe.toml").read_text()
    # thousands of synthetic requests take the teachers half an hour
    sources = text[text.index("[[sources]]") :].replace("synthetic = 20", "synthetic = 0")
    (tmp_path / "recipe.toml").write_text(settings + sources)
    assert_loss_falls(train(tmp_path, tmp_path, CORPORA, tokens=60_000))
