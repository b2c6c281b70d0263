"""One run of `shoal train` as a process of its own, and what it cost."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.process_cost import Cost, run_measured
from tests.benchmarks.serving import ROOT

TAUGHT = "taught"
"""The name under which the result is served."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained from what."""

    base: str
    """As `shoal train --from` and `shoal serve --model` take it."""
    seed: int
    lora_rank: int | None
    """None: all weights."""
    flags: tuple[str, ...] = ()
    """More flags of `shoal train`."""

    def __str__(self) -> str:
        way = "whole" if self.lora_rank is None else f"LoRA {self.lora_rank}"
        return f"{Path(self.base).stem}, {way}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Taught:
    """The result of a run."""

    run: Run
    out: Path
    steps: int
    cost: Cost

    def serve_flags(self) -> list[str]:
        """Of `shoal serve`, which then has a model `TAUGHT`."""
        if self.run.lora_rank is None:
            return ["--model", f"{TAUGHT}={self.out}"]
        return ["--model", self.run.base, "--adapter", f"{TAUGHT}={self.out}"]


def shoal_train(*flags: str | Path) -> Cost:
    """Raises ProgramFailed with what it said."""
    command = [sys.executable, "-m", "shoal", "train", *map(str, flags)]
    return run_measured(command, cwd=ROOT, environment={"PYTHONPATH": str(ROOT / "service")})


def train(run: Run, data: Path, folder: Path) -> Taught:
    """Into `folder`, run folder and result."""
    out, run_dir = folder / "out", folder / "run"
    flags: list[str | Path] = ["--from", run.base, "--data", data, "--out", out]
    flags += ["--run-dir", run_dir, "--seed", str(run.seed), *run.flags]
    if run.lora_rank is not None:
        flags += ["--lora-rank", str(run.lora_rank)]
    cost = shoal_train(*flags)
    return Taught(run, out, max(line["step"] for line in logged_steps(run_dir)), cost)


def logged_steps(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of the run's log that are about a step."""
    lines = list(_json_lines(sorted(run_dir.glob("*.jsonl"))))
    return [line for line in lines if "step" in line]


def _json_lines(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
