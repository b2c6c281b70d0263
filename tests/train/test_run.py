"""`run_training` end to end on a user's own file, and fine-tuning."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.train.config import RecipeError
from shoal.train.corpora import tokenizer_texts
from shoal.train.pieces import Corpus, Document, plain
from shoal.train.report import clock_text, progress_bar, smooth
from shoal.train.run import TrainingRequest, run_training
from tests.train.builders import make_stories, write_jsonl

RECIPE = """
name = "tiny"
[model]
hidden_size = 64
intermediate_size = 96
num_layers = 2
num_heads = 2
num_kv_heads = 1
head_dim = 32
context = 64
[tokenizer]
vocab_size = 320
[schedule]
tokens = 6000
batch_tokens = 512
warmup_steps = 4
[[sources]]
file = "own.jsonl"
hold_out_share = 0.1
"""


def write_recipe(folder: Path) -> Path:
    write_jsonl(folder / "own.jsonl", [{"text": story} for story in make_stories()])
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def test_a_recipe_becomes_a_folder_that_can_be_fine_tuned(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    steps: list[int] = []
    first = run_training(
        TrainingRequest(
            out=tmp_path / "model",
            data=folder,
            recipe=folder,
            run_dir=tmp_path / "run",
            device="cpu",
        ),
        lambda report: steps.append(report.step),
    )
    assert steps == list(range(1, first.progress.step + 1))
    assert first.held_out["bits_per_byte own"] < 4.0
    assert {"config.json", "model.safetensors", "tokenizer.json", "lock.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    card = (tmp_path / "model" / "MODEL.md").read_text()
    assert card.startswith("# model\n")
    assert "| bits_per_byte own |" in card
    assert f"--recipe {folder}" in card
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "MODEL.md").write_text("mine")
    answers = [{"prompt": "Who?", "completion": f"{story[:3]}."} for story in make_stories()]
    tuned = run_training(
        TrainingRequest(
            out=tmp_path / "tuned",
            data=write_jsonl(tmp_path / "more.jsonl", list(answers)),
            base=tmp_path / "model",
            run_dir=tmp_path / "run2",
            device="cpu",
        )
    )
    assert (tmp_path / "tuned" / "MODEL.md").read_text() == "mine"
    losses = [loss for _, loss in tuned.progress.losses]
    assert losses[-1] < losses[0]
    assert tuned.serve == f"shoal serve --model {tmp_path / 'tuned'}"
    assert (tmp_path / "tuned" / "tokenizer.json").read_bytes() == (
        tmp_path / "model" / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("kind", ["data", "base"])
def test_a_run_folder_of_other_data_or_another_base_is_refused(tmp_path: Path, kind: str) -> None:
    folder = write_recipe(tmp_path)
    request = TrainingRequest(
        out=tmp_path / "model",
        data=folder,
        recipe=folder,
        tokens=600,
        run_dir=tmp_path / "run",
        device="cpu",
    )
    run_training(request)
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    if kind == "base":
        shutil.copytree(tmp_path / "model", tmp_path / "base")
        request = replace(request, base=tmp_path / "base")
    else:
        write_jsonl(folder / "own.jsonl", [{"text": "1 2 3 4 5 6 7 8"}] * 50)
    with pytest.raises(RecipeError, match=f"its {kind}|its own.jsonl"):
        run_training(request)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    run_training(replace(request, fresh=True))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != weights


def test_a_folder_without_a_recipe_is_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="give a text or JSONL file"):
        run_training(TrainingRequest(out=tmp_path / "m", data=tmp_path))


def test_what_is_read_seldom_counts_seldom_for_the_tokenizer() -> None:
    often = [Document([plain("often")], 1.5)] * 4
    seldom = [Document([plain("seldom")], 0.25)] * 400
    texts = list(tokenizer_texts(Corpus(often + seldom, {}, [])))
    assert texts.count("often") == 4
    assert texts.count("seldom") == 100


def test_progress_shows_time_and_smooth_losses() -> None:
    assert clock_text(245.9) == "4:05"
    assert clock_text(3723) == "1:02:03"
    assert smooth([4.0, math.nan, 4.0]) == [4.0, 4.0, 4.0]
    with progress_bar("training") as show:
        assert callable(show)


def test_models_of_one_recipe_have_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_recipe(tmp_path)
    request = TrainingRequest(
        out=Path("models/a"), data=folder, recipe=folder, tokens=600, device="cpu"
    )
    steps: list[int] = []
    dirs = [
        str(run_training(each, lambda report: steps.append(report.step)).run_dir)
        for each in (request, replace(request, out=Path("models/b")))
    ]
    assert dirs == ["runs/tiny", "runs/b"]
    assert steps.count(1) == 2
