"""Every choice of a fine-tuning run, with the reason for each that the user left open.

The rules are written for models of 10 million to a few billion weights and for 20 to 100,000 rows.
Rates were measured so that rows are learned and other text is not forgotten: see docs/training.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from shoal.train.config import RecipeError
from shoal.train.finetune.cost import PACK_TOKENS
from shoal.train.finetune.rows import EncodedRow, LoraSettings
from shoal.train.finetune.settings import FineTuneRequest

MIN_ROWS_TO_HOLD_OUT = 20
_MOST_HELD_OUT = 200
_MIN_HELD_OUT_TO_OBEY = 8
_PATIENCE = 2
_EPOCHS_OF_ROWS = ((30, 10.0), (100, 5.0), (1000, 3.0), (5000, 2.0), (math.inf, 1.0))
_ROWS_PER_STEP = 25
_MIN_BATCH, _MAX_BATCH = 2, 16
_MAX_SEQ_LEN = 2048
_REFERENCE_WEIGHTS, _REFERENCE_LR = 135e6, 1e-4
_LR_RANGE = 2e-5, 4e-4
_LORA_LR_FACTOR = 2.5
_WARM_UP_SHARE, _MIN_WARM_UP, _MAX_WARM_UP = 0.05, 2, 50
_WEIGHT_DECAY = 0.01
_CLIP = 1.0
_EVALUATIONS = 4


class Choice(NamedTuple):
    """One line of what is shown at the start."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the weights of a run, besides base and data."""

    rows: int
    """That are learned."""
    steps: int
    epochs: float
    batch_size: int
    """Rows per step; the last step may have fewer."""
    lr: float
    warmup_steps: int
    weight_decay: float
    clip: float
    """Largest norm of the gradient."""
    evaluate_every: int
    """Steps between measurements of the held-out loss."""
    patience: int
    """End after so many measurements in a row that are not the best; 0: never."""
    seq_len: int
    pack_tokens: int
    eval_share: float
    seed: int
    lora: LoraSettings | None

    @property
    def picks(self) -> int:
        """Rows that are read in the whole run, repeats counted."""
        return max(1, round(self.rows * self.epochs))

    def identity(self) -> dict[str, object]:
        """The same as JSON values: two runs of equal plan, base and data give equal weights."""
        values = asdict(self)
        if self.lora is not None:
            values["lora"] = {**asdict(self.lora), "targets": list(self.lora.targets)}
        return values


def choose_seq_len(request: FineTuneRequest, context: int) -> tuple[int, Choice]:
    """Longest row in tokens. `context`: of the model. Raises `RecipeError`."""
    if request.seq_len is not None:
        if request.seq_len > context:
            raise RecipeError(
                f"--seq-len {request.seq_len} is more than the model's context of {context}"
            )
        return request.seq_len, Choice("seq-len", str(request.seq_len), "given")
    chosen = min(context, _MAX_SEQ_LEN)
    reason = "the model's context" if chosen == context else f"context {context}, at most this"
    return chosen, Choice("seq-len", str(chosen), reason)


def choose_eval_share(request: FineTuneRequest, num_rows: int) -> tuple[float, Choice]:
    """Share of all rows that is held out."""
    share = request.eval_share
    reason = "given"
    if share is None and num_rows < MIN_ROWS_TO_HOLD_OUT:
        share, reason = 0.0, f"{num_rows} rows are too few to hold any out"
    elif share is None:
        share = min(0.1, _MOST_HELD_OUT / num_rows)
        reason = f"{num_rows} rows: a tenth, at most about {_MOST_HELD_OUT}"
    return share, Choice("eval-share", f"{share:.3g}", reason)


def make_plan(
    request: FineTuneRequest,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    *,
    eval_share: float,
    seq_len: int,
    num_weights: int,
    lora: LoraSettings | None,
) -> tuple[Plan, list[Choice]]:
    """The plan, and each choice with its reason. `rows`: those that are learned; `num_weights`:
    of the base."""
    count = len(rows)
    epochs = _epochs(request, rows)
    batch = _batch_size(request, count)
    lr = _rate(request, num_weights, lora)
    picks = max(1, round(count * float(epochs.value)))
    steps = math.ceil(picks / int(batch.value))
    per_epoch = math.ceil(count / int(batch.value))
    warm_up = min(_MAX_WARM_UP, max(_MIN_WARM_UP, round(_WARM_UP_SHARE * steps)))
    every = min(per_epoch, math.ceil(steps / _EVALUATIONS))
    if float(epochs.value) >= _EVALUATIONS:
        every = per_epoch
    patience = _PATIENCE if len(held_out) >= _MIN_HELD_OUT_TO_OBEY else 0
    decay = 0.0 if lora else _WEIGHT_DECAY
    longest = max(len(row.ids) for row in (*rows, *held_out))
    plan = Plan(
        rows=count,
        steps=steps,
        epochs=float(epochs.value),
        batch_size=int(batch.value),
        lr=float(lr.value),
        warmup_steps=warm_up,
        weight_decay=decay,
        clip=_CLIP,
        evaluate_every=every,
        patience=patience,
        seq_len=seq_len,
        pack_tokens=max(longest, PACK_TOKENS),
        eval_share=eval_share,
        seed=request.seed,
        lora=lora,
    )
    choices = [
        _lora_choice(request, lora),
        epochs,
        batch,
        Choice("steps", str(steps), f"{picks} rows read, {batch.value} in a step"),
        lr,
        Choice(
            "schedule",
            f"{warm_up} steps up, then down to 0",
            f"{_WARM_UP_SHARE:.0%} of the steps, from {_MIN_WARM_UP} to {_MAX_WARM_UP}",
        ),
        Choice("AdamW", f"weight decay {decay:g}, gradient at most {_CLIP:g}", "fixed"),
        _stop_choice(every, patience, len(held_out)),
        Choice("seed", str(request.seed), "given" if request.seed != 1 else "default"),
    ]
    return plan, choices


def _epochs(request: FineTuneRequest, rows: Sequence[EncodedRow]) -> Choice:
    if request.epochs is not None:
        return Choice("epochs", f"{request.epochs:g}", "given")
    if request.tokens is not None:
        once = sum(len(row.ids) for row in rows)
        value = f"{request.tokens / once:.4g}"
        return Choice("epochs", value, f"{request.tokens:,} tokens of rows that have {once:,}")
    chosen = next(epochs for most, epochs in _EPOCHS_OF_ROWS if len(rows) <= most)
    return Choice("epochs", f"{chosen:g}", f"{len(rows)} rows")


def _batch_size(request: FineTuneRequest, num_rows: int) -> Choice:
    if request.batch_size is not None:
        return Choice("batch-size", str(request.batch_size), "given")
    wanted = max(1.0, num_rows / _ROWS_PER_STEP)
    value = min(_MAX_BATCH, max(_MIN_BATCH, 2 ** round(math.log2(wanted))))
    return Choice("batch-size", str(value), f"{num_rows} rows: about {_ROWS_PER_STEP} steps a pass")


def _rate(request: FineTuneRequest, num_weights: int, lora: LoraSettings | None) -> Choice:
    """Smaller models bear, and need, higher rates. Low-rank matrices take 2.5 times those: at five
    times SmolLM2 loses 6 % on other text (bits per byte), at twice it does not learn every set of
    200 rows."""
    if request.lr is not None:
        return Choice("lr", f"{request.lr:g}", "given")
    low, high = _LR_RANGE
    whole = min(high, max(low, _REFERENCE_LR * (_REFERENCE_WEIGHTS / num_weights) ** 0.5))
    value = whole * _LORA_LR_FACTOR if lora else whole
    size = f"{num_weights / 1e6:,.0f} M weights"
    return Choice("lr", f"{value:.2g}", f"{size}, {'LoRA' if lora else 'all of them learned'}")


def _lora_choice(request: FineTuneRequest, lora: LoraSettings | None) -> Choice:
    if lora is None:
        return Choice("learns", "all weights", "no --lora-rank")
    what = f"LoRA rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}"
    return Choice("learns", what, "given" if request.lora_alpha else "alpha is twice the rank")


def _stop_choice(every: int, patience: int, num_held_out: int) -> Choice:
    if not num_held_out:
        return Choice("early stop", "off", "nothing is held out")
    what = f"held-out loss every {every} steps"
    if not patience:
        reason = f"{num_held_out} held-out rows are too few to stop by"
        return Choice("early stop", f"off; {what}", reason)
    return Choice(
        "early stop", what, f"ends when {patience} in a row bring nothing better; the best is kept"
    )
