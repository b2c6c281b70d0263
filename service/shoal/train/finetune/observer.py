"""Who watches a fine-tuning run, and what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.train.progress import StepReport

Answer = Callable[[Path, Path | None, Sequence[Sequence[int]]], list[str]]
"""Greedy answers of the model at a path, with the adapter in a folder or without one, to prompts
given as token ids. Raises ShoalError."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Callbacks of a run."""

    say: Callable[[str], None] = lambda line: None
    """A line for the user."""
    on_rows: Callable[[str, int, int | None], None] = lambda doing, done, total: None
    """What is done with rows before and between the steps ("encoding"), how many of them are done
    and how many there are, where that is known."""
    on_step: Callable[[StepReport], None] = lambda report: None
    answer: Answer | None = None
    """None: no samples before and after."""
    clock: Callable[[], float] = time.monotonic
    save_every_s: float = 30.0
    """Seconds between checkpoints, at least."""
