"""The log of a run: one JSON object per line, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class RunLog:
    """Appends to log.jsonl of a run folder."""

    def __init__(self, folder: Path, step: int) -> None:
        """`step`: that the run goes on from. What an earlier process logged behind it is removed,
        since those steps are made again."""
        self._path = folder / "log.jsonl"
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard", step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log what was measured after a step."""
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> float:
    """A line that was cut by a crash is behind every step."""
    with suppress(ValueError, KeyError, TypeError):
        return float(json.loads(line)["step"])
    return float("inf")


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)  # type: ignore[no-untyped-call]
