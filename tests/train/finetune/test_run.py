"""`fine_tune` end to end on tiny models: what comes out, and what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from shoal.checkpoint.adapter import AdapterFolder
from shoal.errors import ModelFolderError
from shoal.train.config import RecipeError
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.run import fine_tune, rehearse, serve_command, train_command
from shoal.train.finetune.settings import FineTuneRequest
from tests.fakes.tiny_encoders import write_encoder
from tests.fakes.tiny_models import write_tiny_gpt2
from tests.train.builders import write_jsonl
from tests.train.finetune.running import asked, contents, pairs

ADAPTER = "adapter_model.safetensors"
pytestmark = pytest.mark.usefixtures("one_format")


# --- what comes out -------------------------------------------------------------------------------


def test_lora_becomes_an_adapter_and_leaves_the_base_alone(tmp_path: Path) -> None:
    request = asked(tmp_path, lora_targets=("q_proj", "v_proj"), lr=0.02, epochs=3.0)
    base = contents(request.base)
    result = fine_tune(request)
    assert contents(request.base) == base
    config = AdapterFolder(request.out).config()
    assert (config.rank, config.alpha) == (2, 4.0)
    arrays = load_file(request.out / ADAPTER)
    assert all(".q_proj." in name or ".v_proj." in name for name in arrays)
    assert all(abs(array).max() > 0 for array in arrays.values())
    assert result.held_out["last step"] < result.held_out["first step"]
    assert result.num_parameters == sum(array.size for array in arrays.values())
    assert (request.run_dir or tmp_path).joinpath("log.jsonl").exists()
    card = (request.out / "MODEL.md").read_text()
    assert "rows.jsonl, 24 rows" in card
    assert "--lora-rank 2" in card


@pytest.mark.parametrize("choices", [{"lora_rank": None}, {"merge": True, "lr": 0.02}])
def test_all_weights_become_a_model_with_the_tokenizer_and_template_of_the_base(
    tmp_path: Path, choices: dict[str, Any]
) -> None:
    request = asked(tmp_path, **choices)
    fine_tune(request)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (request.out / name).read_bytes() == (request.base / name).read_bytes()
    before, after = (
        load_file(folder / "model.safetensors") for folder in (request.base, request.out)
    )
    assert before.keys() == after.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert before[name].shape == after[name].shape
    assert (before[name] != after[name]).any()


def test_a_base_without_a_template_learns_pairs_and_texts(tmp_path: Path) -> None:
    write_tiny_gpt2(tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    said: list[str] = []
    fine_tune(asked(tmp_path), Observer(say=said.append))
    assert any("no chat template" in line for line in said)
    (tmp_path / "rows.txt").write_text("a b c d. " * 100)
    texts = asked(tmp_path, data=tmp_path / "rows.txt", overwrite=True)
    fine_tune(texts, Observer(say=said.append))
    assert any("texts as" in line for line in said)


def test_samples_before_and_after_are_shown_and_kept_in_the_card(tmp_path: Path) -> None:
    calls: list[tuple[Path, bool, int]] = []
    said: list[str] = []

    def answer(model: Path, adapter: Path | None, prompts: Sequence[Sequence[int]]) -> list[str]:
        assert adapter is None or (adapter / ADAPTER).is_file()
        calls.append((model, adapter is not None, len(prompts)))
        word = "new" if adapter else "old"
        return [f"{word} {bytes(t for t in prompt if t < 256).decode()}" for prompt in prompts]

    request = asked(tmp_path, eval_share=0.4)
    fine_tune(request, Observer(say=said.append, answer=answer))
    assert calls == [(request.base, False, 5), (request.base, True, 5)]
    card = (request.out / "MODEL.md").read_text()
    assert "old \nsay " in card.replace("    ", "")  # the prompt ends where the answer begins
    assert sum(line.startswith("asked") for line in said) == 5


def test_samples_that_cannot_be_had_are_no_reason_to_fail(tmp_path: Path) -> None:
    def answer(*arguments: Any) -> list[str]:
        raise ModelFolderError("no memory")

    said: list[str] = []
    request = asked(tmp_path)
    fine_tune(request, Observer(say=said.append, answer=answer))
    assert "no sample answers: no memory" in said
    assert (request.out / ADAPTER).exists()


def test_each_choice_is_said_with_its_reason(tmp_path: Path) -> None:
    said: list[str] = []
    fine_tune(asked(tmp_path, epochs=None, eval_share=None), Observer(say=said.append))
    text = "\n".join(said)
    for part in (
        "epochs      10 (2",
        " rows)",
        "batch-size  4 (given)",
        "learns      LoRA rank 2, alpha 4, on",
        "tokens to read",
        "rows held out",
        "device      cpu",
        "computes    in float32, about ",
    ):
        assert part in text


def test_rows_are_counted_while_they_are_encoded_and_measured(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    write_jsonl(tmp_path / "rows.jsonl", pairs(300))
    request = asked(tmp_path, eval_share=0.3, batch_size=100)

    def on_rows(doing: str, done: int, total: int | None) -> None:
        told.append((doing, done, total))

    fine_tune(request, Observer(on_rows=on_rows))
    encoded = [done for doing, done, total in told if (doing, total) == ("encoding", 300)]
    assert encoded == sorted(encoded)
    assert encoded[-1] == 300
    assert len(encoded) >= 3
    assert told[: len(encoded)] == [("encoding", done, 300) for done in encoded]
    [num_held_out] = {total for doing, _, total in told if doing == "measuring"}
    assert told[-1] == ("measuring", num_held_out, num_held_out)


def test_a_limit_that_allows_no_step_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--minutes 0.001 is too short"):
        fine_tune(asked(tmp_path, limit_s=0.06))


def test_activations_are_computed_again_where_memory_is_short(tmp_path: Path) -> None:
    said: list[str] = []
    request = asked(tmp_path, memory_bytes=1000)
    fine_tune(request, Observer(say=said.append))
    text = "\n".join(said)
    assert "activations are computed again" in text
    assert "0.0 GB are free, so it may fail" in text
    assert json.loads((tmp_path / "run" / "run.json").read_text())["notes"]["checkpointing"]


def test_a_rehearsal_says_what_a_run_costs_and_writes_nothing(tmp_path: Path) -> None:
    request = asked(tmp_path)
    before = contents(tmp_path)
    said: list[str] = []
    rehearse(request, Observer(say=said.append))
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()
    text = "\n".join(said)
    for word in ("tokens in 6 steps", "GB", "takes       about 0:0", "nothing written"):
        assert word in text


# --- words ----------------------------------------------------------------------------------------


def test_the_command_of_a_request_says_what_was_given_and_no_more(tmp_path: Path) -> None:
    request = FineTuneRequest(
        out=Path("my models/out"),
        data=Path("rows.jsonl"),
        base=Path("smollm2"),
        limit_s=90.0,
        lora_rank=8,
        lora_targets=("q", "v"),
        merge=True,
        overwrite=True,
    )
    assert train_command(request) == (
        "shoal train --out 'my models/out' --data rows.jsonl --from smollm2 --minutes 1.5 "
        "--lora-rank 8 --lora-targets q,v --merge"
    )


@pytest.mark.parametrize(
    ("choices", "command"),
    [
        ({"lora_rank": 8}, "shoal serve --model smollm2 --adapter out"),
        ({"lora_rank": 8, "merge": True}, "shoal serve --model out"),
        ({}, "shoal serve --model out"),
        (
            {"lora_rank": 8, "out": Path("x/smollm2")},
            "shoal serve --model smollm2 --adapter smollm2-adapter=x/smollm2",
        ),
    ],
)
def test_the_command_that_serves_the_result(choices: dict[str, Any], command: str) -> None:
    given: dict[str, Any] = {"out": Path("out"), "data": Path("rows"), "base": Path("smollm2")}
    request = FineTuneRequest(**{**given, **choices})
    assert serve_command(request, Path("models/smollm2.gguf")) == command


def test_a_base_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_encoder(tmp_path / "base")
    with pytest.raises(RecipeError, match="base writes no text, it makes embeddings: give a base"):
        fine_tune(asked(tmp_path))
