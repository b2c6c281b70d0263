"""`fine_tune` end to end on tiny models: what comes out, and runs that are kept."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from shoal.checkpoint.adapter import AdapterFolder
from shoal.errors import ModelFolderError
from shoal.train.config import RecipeError
from shoal.train.finetune.encode import Encoder
from shoal.train.finetune.interrupts import Interrupted
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.run import fine_tune, rehearse, serve_command, train_command
from shoal.train.finetune.settings import FineTuneRequest
from shoal.train.progress import StepReport
from tests.fakes.tiny_encoders import write_encoder
from tests.fakes.tiny_models import write_tiny_gpt2, write_tiny_llama
from tests.train.builders import write_jsonl

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one is faster is measured, and may differ between two runs."""
    monkeypatch.setattr("shoal.train.finetune.compute.fastest_dtype", lambda device: torch.float32)


def pairs(count: int = 24) -> list[dict[str, object]]:
    return [{"prompt": f"say {index % 7}", "completion": f"{index % 7}!"} for index in range(count)]


def asked(folder: Path, **choices: Any) -> FineTuneRequest:
    """A run that takes six steps; base and rows are made where they are not there."""
    base, data = folder / "base", folder / "rows.jsonl"
    if not base.exists():
        write_tiny_llama(base)
    if not data.exists():
        write_jsonl(data, pairs())
    small: dict[str, Any] = {
        "out": folder / "out",
        "data": data,
        "base": base,
        "run_dir": folder / "run",
        "device": "cpu",
        "epochs": 1.0,
        "batch_size": 4,
        "lora_rank": 2,
        "eval_share": 0.0,
    }
    return FineTuneRequest(**{**small, **choices})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class StopAt:
    """Sends this process Ctrl-C after a step; counts the steps."""

    def __init__(self, step: int | None = None) -> None:
        self.step, self.seen = step, list[int]()

    def __call__(self, report: StepReport) -> None:
        self.seen.append(report.step)
        if report.step == self.step:
            signal.raise_signal(signal.SIGINT)


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


# --- runs that are kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, None])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, rank: int | None) -> None:
    request = asked(tmp_path, lora_rank=rank, eval_share=0.3)
    whole = replace(request, out=tmp_path / "whole", run_dir=tmp_path / "whole run")
    fine_tune(whole)
    with pytest.raises(Interrupted, match="saved at step 2 of"):
        fine_tune(request, Observer(on_step=StopAt(2)))
    assert not request.out.exists()
    said: list[str] = []
    steps = StopAt()
    fine_tune(request, Observer(say=said.append, on_step=steps))
    assert any(line.startswith("continues at step 2 of ") for line in said)
    assert steps.seen[0] == 3
    for name in (ADAPTER, "model.safetensors"):
        if (whole.out / name).exists():
            assert (request.out / name).read_bytes() == (whole.out / name).read_bytes()


KILLED = """
import pathlib, sys, torch
from shoal.train.finetune import compute, run
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.settings import FineTuneRequest
folder = pathlib.Path(sys.argv[1])
request = FineTuneRequest(
    out=folder / "out", data=folder / "rows.jsonl", base=folder / "base", run_dir=folder / "run",
    device="cpu", epochs=200.0, batch_size=4, lora_rank=2, eval_share=0.0, num_threads=1,
)
show = lambda report: print(report.step, flush=True)
compute.fastest_dtype = lambda device: torch.float32
run.fine_tune(request, Observer(on_step=show, save_every_s=0.0))
"""


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    request = asked(tmp_path, epochs=200.0)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 30:
            child.kill()
            break
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    said: list[str] = []
    with pytest.raises(Interrupted):  # all 1,200 steps are not needed to know
        fine_tune(request, Observer(say=said.append, on_step=StopAt(60)))
    at = next(int(line.split()[3]) for line in said if line.startswith("continues at step"))
    assert 1 <= at < 60
    whole = replace(request, out=tmp_path / "whole", run_dir=tmp_path / "whole run")
    with pytest.raises(Interrupted):
        fine_tune(whole, Observer(on_step=StopAt(60)))
    runs = (tmp_path / "run", tmp_path / "whole run")
    found, wanted = (load_file(run / "checkpoint.safetensors") for run in runs)
    assert found.keys() == wanted.keys()
    assert all((found[name] == wanted[name]).all() for name in wanted)


def test_a_finished_run_says_so_and_trains_nothing(tmp_path: Path) -> None:
    request = asked(tmp_path)
    first = fine_tune(request)
    before = contents(tmp_path)
    said: list[str] = []
    steps = StopAt()
    again = fine_tune(request, Observer(say=said.append, on_step=steps))
    [line] = said
    assert "this run is finished" in line
    assert "--overwrite" in line
    assert steps.seen == []
    assert contents(tmp_path) == before
    assert (again.held_out, again.serve) == (first.held_out, first.serve)
    (request.out / ADAPTER).unlink()
    (request.out / "adapter_config.json").unlink()
    with pytest.raises(RecipeError, match=r"is gone: --overwrite trains it again"):
        fine_tune(request)
    fine_tune(replace(request, overwrite=True), Observer(on_step=steps))
    assert steps.seen == [1, 2, 3, 4, 5, 6]
    assert (request.out / ADAPTER).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "others.jsonl"}, "its data was rows.jsonl"),
        ({"base": "other"}, "its base was base"),
        ({"lr": 0.5}, "its lr was"),
        ({"lora_rank": 3}, "its rank was 2, here it is 3"),
        ({"merge": True}, "its merged was False"),
    ],
)
def test_another_run_in_the_same_place_is_refused_and_changes_nothing(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    request = asked(tmp_path)
    fine_tune(request)
    write_jsonl(tmp_path / "others.jsonl", pairs(25))
    write_tiny_llama(tmp_path / "other", seed=1)
    before = contents(tmp_path)
    paths = {key: tmp_path / value for key, value in change.items() if key in ("data", "base")}
    other = replace(request, **{**change, **paths})
    said: list[str] = []
    with pytest.raises(RecipeError, match=message):
        fine_tune(other, Observer(say=said.append))
    assert said == []
    assert contents(tmp_path) == before
    fine_tune(replace(other, overwrite=True))


@pytest.mark.parametrize("name", ["data", "base"])
def test_other_data_or_another_base_is_refused_before_rows_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    request = asked(tmp_path)
    fine_tune(request)
    others = {
        "data": write_jsonl(tmp_path / "others.jsonl", pairs(25)),
        "base": write_tiny_llama(tmp_path / "other", seed=1),
    }

    def encode_all(*arguments: Any) -> None:
        pytest.fail("rows were encoded")

    monkeypatch.setattr(Encoder, "encode_all", encode_all)
    with pytest.raises(RecipeError, match=f"its {name} was"):
        fine_tune(replace(request, **{name: others[name]}))


def test_a_model_of_another_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    request = asked(tmp_path)
    fine_tune(request)
    elsewhere = replace(request, run_dir=tmp_path / "run 2", lr=0.5)
    before = contents(request.out)
    said: list[str] = []
    with pytest.raises(RecipeError, match=r"holds a model of another run: --overwrite"):
        fine_tune(elsewhere, Observer(say=said.append))
    assert said == []
    assert contents(request.out) == before


def test_outputs_of_one_name_have_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = asked(tmp_path, out=Path("adapters/x"), run_dir=None)
    other = replace(one, out=Path("models/x"), merge=True)
    said: list[str] = []
    results = [fine_tune(each, Observer(say=said.append)) for each in (one, other, one, other)]
    dirs = [str(result.run_dir) for result in results]
    assert dirs == ["runs/x", "runs/models-x"] * 2
    assert "run-dir     runs/models-x" in said
    assert sum("this run is finished" in line for line in said) == 2
    fine_tune(replace(other, overwrite=True))
    assert fine_tune(one).progress.step == results[0].progress.step


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "no space left")])
def test_an_export_that_failed_is_repeated_without_training_again(
    tmp_path: Path, error: BaseException
) -> None:
    answers = iter([["before"] * 5, error])

    def answer(*arguments: Any) -> list[str]:
        found = next(answers)
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, list)
        return found

    request = asked(tmp_path, eval_share=0.4)
    with pytest.raises((KeyboardInterrupt, RecipeError)):
        fine_tune(request, Observer(answer=answer))
    assert not request.out.exists()
    steps = StopAt()
    fine_tune(request, Observer(on_step=steps))
    assert steps.seen == []
    assert (request.out / ADAPTER).exists()


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
