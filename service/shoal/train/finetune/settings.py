"""What a user asks of a fine-tuning run. What is None is chosen by `plan`, from data and model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from shoal.train.config import RecipeError

MAX_EVAL_SHARE = 0.5
DEFAULT_TARGETS = ("all-linear",)


@dataclass(frozen=True, slots=True)
class FineTuneRequest:
    """Base, data, result and the choices of the user. Raises `RecipeError` for values that no run
    can have."""

    out: Path
    """Folder to write: a PEFT adapter, or a whole model."""
    data: Path
    """File of rows, or a folder of such files."""
    base: Path
    """Model folder, GGUF file, or the name of a model in `models_dir`."""
    models_dir: Path | None = None
    """Where names are looked up; None: where `shoal serve` looks."""
    run_dir: Path | None = None
    """Checkpoints, log and plot; None: what `choose_run_dir` says."""
    overwrite: bool = False
    """Forget the run that is in the run folder, and replace whatever `out` holds."""
    device: str | None = None
    """A torch device; None: cuda where there is one, else cpu."""
    num_threads: int | None = None
    """Of PyTorch, for the whole process; None: as they are."""
    memory_bytes: int | None = None
    """That the process may take; None: not known."""
    epochs: float | None = None
    """Passes over the rows that are learned."""
    tokens: int | None = None
    """Length in tokens read, instead of `epochs`."""
    limit_s: float | None = None
    """Finish within so many seconds, export included."""
    lr: float | None = None
    """Highest learning rate of AdamW."""
    batch_size: int | None = None
    """Rows per step."""
    seq_len: int | None = None
    """Longest row in tokens."""
    eval_share: float | None = None
    """Share of the rows that is held out."""
    seed: int = 1
    """Of the order of rows, of what is held out and of new matrices."""
    lora_rank: int | None = None
    """Learn low-rank matrices of this rank; None: all weights."""
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = DEFAULT_TARGETS
    """Modules or roles that get them: "q_proj", "q", "all-linear"."""
    merge: bool = False
    """With `lora_rank`: write a whole model instead of an adapter."""

    def __post_init__(self) -> None:
        positive = ("epochs", "tokens", "limit_s", "lr", "batch_size", "lora_rank", "lora_alpha")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise RecipeError(f"{name} is {value}; it must be more than 0")
        if self.seq_len is not None and self.seq_len < 2:
            raise RecipeError(f"seq_len is {self.seq_len}; a row needs 2 tokens at least")
        if self.eval_share is not None and not 0 <= self.eval_share <= MAX_EVAL_SHARE:
            raise RecipeError(
                f"eval_share is {self.eval_share}; it must be from 0 (nothing is held out) to "
                f"{MAX_EVAL_SHARE}"
            )
        if self.epochs is not None and self.tokens is not None:
            raise RecipeError("both epochs and tokens say how long: give one of them")
        if self.lora_rank is None:
            for name, given in (
                ("lora_alpha", self.lora_alpha is not None),
                ("lora_targets", self.lora_targets != DEFAULT_TARGETS),
                ("merge", self.merge),
            ):
                if given:
                    raise RecipeError(f"{name} belongs to adapters: give lora_rank as well")
