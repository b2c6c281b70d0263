"""`shoal train --from` as people type it: flags, errors in one line, signals to a real process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli import build_app
from shoal.commands.teach import Display
from shoal.train.progress import StepReport
from tests.fakes.tiny_models import write_tiny_llama
from tests.train.builders import write_jsonl

GIVEN = ("--out", "o", "--data", "d", "--from", "b")


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(False), ["train", *arguments])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "o", "--data", "d", "--lr", "1"), "--lr is of fine-tuning, which --from"),
        (("--out", "o", "--data", "d", "--merge"), "--merge is of fine-tuning"),
        (("--out", "o", "--data", "d", "--dry-run"), "--dry-run is of fine-tuning"),
        ((*GIVEN, "--recipe", "r", "--epochs", "1"), "--epochs is of fine-tuning"),
        ((*GIVEN, "--lr", "0"), "lr is 0.0; it must be more than 0"),
        ((*GIVEN, "--lora-alpha", "4"), "give lora_rank as well"),
        ((*GIVEN, "--epochs", "1", "--tokens", "5"), "give one of them"),
        ((*GIVEN, "--eval-share", "0.9"), "eval_share is 0.9"),
        ((*GIVEN, "--device", "abacus"), "--device abacus"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_llama(tmp_path / "b")
    write_jsonl(tmp_path / "d", [{"prompt": "a", "completion": "b"}])
    code, errors = invoke(*arguments)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "d"]


def test_a_model_and_a_file_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, errors = invoke(*GIVEN)
    assert (code, errors.count("\n")) == (2, 1)
    assert "b" in errors
    write_tiny_llama(tmp_path / "b")
    code, errors = invoke(*GIVEN)
    assert (code, errors.count("\n")) == (2, 1)
    assert "d" in errors


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "shoal", "train", "--from", "base", "--data", "rows.jsonl"),
        *("--out", "out", "--lora", "2", "--batch-size", "2", "--device", "cpu", *arguments),
    ]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def signal_at_first_line(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Its output, of which there is a line for its first step, also off a terminal."""
    assert process.stdout is not None
    lines = []
    is_sent = False
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step ") and not is_sent:
            process.send_signal(number)
            is_sent = True
    process.wait()
    return "".join(lines)


def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "base")
    rows = [{"prompt": f"say {index}", "completion": f"{index}!"} for index in range(30)]
    write_jsonl(tmp_path / "rows.jsonl", list(rows))
    saved_at = 0
    for number, exit_code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(tmp_path, "--epochs", "400")
        output = signal_at_first_line(process, number)
        assert (f"continues at step {saved_at} of 5" in output) == (saved_at > 0)
        found = re.search(r"saved at step (\d+) of \d+; the same command goes on", output)
        assert found is not None, output
        assert process.returncode == exit_code
        assert int(found[1]) > saved_at
        saved_at = int(found[1])
    assert not (tmp_path / "out").exists()


def test_progress_is_shown_from_the_first_seconds_on_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("shoal.commands.teach.time.monotonic", lambda: now)
    with ExitStack() as stack:
        display = Display("teaching x", stack)
        for now in (100.5, 101.0, 105.0, 110.9, 111.0):
            display.on_rows("encoding", int(now), 10_000)
        display.on_rows("reading", 7000, None)
        for now in (112.0, 113.0, 122.5):
            display.on_step(StepReport(int(now), 1.0, 0.5, 10, 10.0, 60.0))
        display.on_step(StepReport(300, 1.0, 1.0, 10, 10.0, 0.0))
        now = 140.0
        display.on_rows("measuring", 2000, 2000)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "encoding", "encoding", "step 112", "step 122", "step 300", "measuring",
    ]  # fmt: skip
    assert lines[0] == "encoding    101 of 10,000 rows"
    now = 200.0
    Display("teaching x", ExitStack()).on_rows("reading", 7000, None)
    assert capsys.readouterr().out == ""
