"""What a run reports while it trains and when it ends, whichever way it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # next batch within the epoch
    tokens: int = 0
    elapsed_s: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)  # (tokens, nats per token)
    held_out: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # (tokens, by name)


class StepReport(NamedTuple):
    """What one optimizer step did."""

    step: int
    loss: float  # nats per token of the loss mask
    share_done: float  # 0 to 1
    tokens: int
    tokens_per_s: float
    left_s: float


class TrainingResult(NamedTuple):
    """What a run produced."""

    out: Path
    run_dir: Path
    num_parameters: int  # that were learned
    progress: Progress
    held_out: dict[str, float]  # figures on what was held out, by name
    plot: Path | None  # None: matplotlib is not installed
    serve: str  # the command that serves it
