"""Runs that are kept: stopped, killed, finished, refused, and exported again."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from shoal.train.config import RecipeError
from shoal.train.finetune.encode import Encoder
from shoal.train.finetune.interrupts import Interrupted
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.run import fine_tune
from tests.fakes.tiny_models import write_tiny_llama
from tests.train.builders import write_jsonl
from tests.train.finetune.running import StopAt, asked, contents, pairs

ADAPTER = "adapter_model.safetensors"
pytestmark = pytest.mark.usefixtures("one_format")


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
