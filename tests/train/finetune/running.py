"""Small runs, and what they leave."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from shoal.train.finetune.settings import FineTuneRequest
from shoal.train.progress import StepReport
from tests.fakes.tiny_models import write_tiny_llama
from tests.train.builders import write_jsonl


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
