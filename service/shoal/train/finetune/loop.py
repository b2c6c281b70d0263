"""The loop of a fine-tuning run: rows in, trained weights out; checkpoints resume exactly.

What decides the next step is the plan, the number of steps made, the weights and AdamW's moments;
a resumed run computes the same weights bit for bit (unless it is limited by time: then the learning
rate follows the clock).
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from shoal.train.config import RecipeError
from shoal.train.finetune.checkpoint import load_into, read_facts, save_checkpoint
from shoal.train.finetune.interrupts import Interrupted, noticed_signals
from shoal.train.finetune.log import RunLog
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.pack import Pack, make_packs
from shoal.train.finetune.plan import Plan
from shoal.train.finetune.rows import EncodedRow
from shoal.train.progress import Progress, StepReport

HELD_OUT = "loss held out"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_SAVING_SHARE = 0.05


class Network(Protocol):
    """What is trained."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Leaf tensors, float32."""
        ...

    def backward(self, pack: Pack, scale: float) -> float:
        """Add the gradient of scale x sum of nats; returns that sum."""
        ...

    def nats(self, pack: Pack) -> tuple[float, int]:
        """Sum of nats over the learned tokens, and their number."""
        ...


class End(NamedTuple):
    """How a loop ended."""

    step: int
    """Of the weights that the network has."""
    remark: str
    """Why it ended before its last step, or why these weights are not the last; else empty."""
    held_out: float | None
    """Held-out loss of these weights, nats per learned token."""


@dataclass(slots=True)
class _Best:
    """The best measurement of the held-out loss so far."""

    step: int = 0
    loss: float = math.inf
    misses: int = 0
    """Measurements since."""


class Loop:
    """One run of a network over rows."""

    def __init__(
        self,
        network: Network,
        rows: Sequence[EncodedRow],
        held_out: Sequence[EncodedRow],
        plan: Plan,
        folder: Path,
        observer: Observer,
    ) -> None:
        self.network, self.rows, self.plan = network, rows, plan
        self.folder, self.observer = folder, observer
        self.progress = Progress()
        self.held_out_packs = make_packs(held_out, plan.pack_tokens) if held_out else []
        self._num_held_out = len(held_out)
        self._best = _Best()
        self._is_done = False  # the checkpoint was taken when no step was to follow
        self._optimizer = torch.optim.AdamW(
            list(network.parameters.values()),
            lr=plan.lr,
            betas=(0.9, 0.999),
            weight_decay=plan.weight_decay,
            fused=True,
        )
        self._recent_s: deque[float] = deque(maxlen=20)
        self._trained_s, self._tokens_before = 0.0, 0  # in this process; before it

    # --- resuming --------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def resume(self) -> bool:
        """Take up the checkpoint of the run folder; False where there is none."""
        if not self._checkpoint.exists():
            return False
        facts = read_facts(self._checkpoint)
        self.progress = progress = Progress(**facts["progress"])
        progress.losses = [(tokens, loss) for tokens, loss in progress.losses]
        progress.held_out = [(tokens, figures) for tokens, figures in progress.held_out]
        self._best = _Best(**facts["best"])
        load_into(self._checkpoint, self.network.parameters)
        self._is_done = facts["is_done"]
        if self.progress.step and not self._is_done:
            for weight in self.network.parameters.values():
                self._optimizer.state[weight] = {
                    "step": torch.tensor(float(self.progress.step), device=weight.device),
                    **{name: torch.empty_like(weight) for name in _MOMENTS},
                }
            load_into(self._checkpoint, self._moments())
        self._tokens_before = self.progress.tokens
        return True

    def save(self, *, is_done: bool = False) -> None:
        """Write the checkpoint. `is_done`: no step follows, so AdamW's moments are left out."""
        facts = {
            "progress": asdict(self.progress),
            "best": asdict(self._best),
            "is_done": is_done,
        }
        moments = {} if is_done else self._moments()
        save_checkpoint(self._checkpoint, {**self.network.parameters, **moments}, facts)
        for path in self.folder.glob("best-*"):
            if path != self._best_path:
                path.unlink()

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{moment}.{name}": self._optimizer.state[weight][moment]
            for name, weight in self.network.parameters.items()
            if weight in self._optimizer.state
            for moment in _MOMENTS
        }

    # --- training --------------------------------------------------------------------------------

    def run(self, until_s: float | None = None) -> End:
        """Train to the end of the plan, or so that the last step ends before `until_s` of the
        observer's clock. The network then has the weights of the lowest held-out loss, where that
        is obeyed. Raises `Interrupted` after saving, and `RecipeError` where the loss is not
        finite."""
        log = RunLog(self.folder, self.progress.step)
        try:
            return self._run(until_s, log)
        finally:
            log.close()

    def _run(self, until_s: float | None, log: RunLog) -> End:
        clock, plan, progress = self.observer.clock, self.plan, self.progress
        started, before_s = clock(), progress.elapsed_s
        saved_at, saving_s = started, 0.0
        if progress.step == 0:
            self._evaluate(log)
        evaluation_s = clock() - started
        remark = ""
        with noticed_signals(lambda: self.observer.say("saving; once more ends at once")) as came:
            while progress.step < plan.steps and not self._is_over():
                now = clock()
                share = progress.step / plan.steps
                if until_s is not None:
                    last = until_s - evaluation_s
                    if now + max(self._recent_s, default=0.0) > last:
                        remark = f"ended by the clock after step {progress.step} of {plan.steps}"
                        break
                    share = max(share, (now - started) / max(1e-9, last - started))
                loss = self._step(share, log)
                self._recent_s.append(clock() - now)
                self._trained_s += self._recent_s[-1]
                progress.elapsed_s = before_s + clock() - started
                self._report(loss, until_s)
                if progress.step % plan.evaluate_every == 0 or progress.step == plan.steps:
                    self._evaluate(log)
                if number := came():
                    self.save()
                    raise Interrupted(f"saved at step {progress.step} of {plan.steps}", number)
                pause = max(self.observer.save_every_s, saving_s / _SAVING_SHARE)
                if clock() - saved_at >= pause and progress.step < plan.steps:
                    saving_since = clock()
                    self.save()
                    saved_at = clock()
                    saving_s = saved_at - saving_since
        measured = [at for at, _ in progress.held_out]
        if remark and measured[-1:] != [progress.tokens]:
            self._evaluate(log)
        return self._end(remark)

    def _end(self, remark: str) -> End:
        """Leaves the best weights in the network and AdamW's moments to nobody."""
        self._optimizer.state.clear()
        for weight in self.network.parameters.values():
            weight.grad = None
        best, step, measured = self._best, self.progress.step, self.progress.held_out
        now = measured[-1][1][HELD_OUT] if measured else None
        if not self.plan.patience or best.step in (0, step):
            return End(step, remark, now)
        load_into(self._best_path, self.network.parameters)
        kept = f"the weights of step {best.step} are kept: held-out loss {best.loss:.4f}, "
        kept += f"after step {step} it was {now:.4f}"
        return End(best.step, f"{remark}; {kept}" if remark else kept, best.loss)

    def _is_over(self) -> bool:
        """Before the last step."""
        is_worse_for_long = self.plan.patience and self._best.misses >= self.plan.patience
        return self._is_done or bool(is_worse_for_long)

    def _step(self, share: float, log: RunLog) -> float:
        plan, progress, optimizer = self.plan, self.progress, self._optimizer
        rows = [self.rows[index] for index in rows_of_step(plan, progress.step)]
        since = self.observer.clock()
        packs = make_packs(rows, plan.pack_tokens)
        num_learned = sum(pack.num_targets for pack in packs)
        nats = sum(self.network.backward(pack, 1.0 / num_learned) for pack in packs)
        weights = list(self.network.parameters.values())
        norm = float(torch.nn.utils.clip_grad_norm_(weights, plan.clip))
        loss, lr = nats / num_learned, plan.lr * rate_factor(plan, progress.step, share)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._fail(loss, norm, lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # the memory stays: pages are costly to get anew
        num_tokens = sum(len(row.ids) for row in rows)
        progress.step += 1
        progress.tokens += num_tokens
        progress.losses.append((progress.tokens, loss))
        log.add(
            progress.step,
            {
                "epoch": round(min(progress.step * plan.batch_size, plan.picks) / plan.rows, 4),
                "tokens": progress.tokens,
                "loss": loss,
                "lr": lr,
                "grad_norm": norm,
                "tokens_per_s": round(num_tokens / max(1e-9, self.observer.clock() - since), 1),
            },
        )
        return loss

    def _fail(self, loss: float, norm: float, lr: float) -> None:
        """Keeps the weights, which this step has not changed."""
        self._optimizer.zero_grad(set_to_none=True)
        self.save()
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
        raise RecipeError(
            f"the {what} in step {self.progress.step + 1}, at a rate of {lr:.2g}: nothing was "
            f"exported, and the weights before it are kept in {self._checkpoint}. Try "
            f"--lr {self.plan.lr / 4:.2g} --overwrite"
        )

    def _evaluate(self, log: RunLog) -> None:
        """Measure the held-out loss; keep the weights where it is the lowest so far."""
        if not self.held_out_packs:
            return
        measured: list[tuple[float, int]] = []
        done = 0
        for pack in self.held_out_packs:
            measured.append(self.network.nats(pack))
            done += pack.num_rows
            self.observer.on_rows("measuring", done, self._num_held_out)
        loss = sum(nats for nats, _ in measured) / sum(count for _, count in measured)
        progress, best = self.progress, self._best
        progress.held_out.append((progress.tokens, {HELD_OUT: loss}))
        log.add(progress.step, {"tokens": progress.tokens, "held_out_loss": loss})
        if progress.step == 0 or not self.plan.patience:
            return
        if not loss < best.loss:
            best.misses += 1
            return
        best.step, best.loss, best.misses = progress.step, loss, 0
        if progress.step < self.plan.steps:  # the last weights stay in memory
            save_checkpoint(self._best_path, self.network.parameters, {})

    @property
    def _best_path(self) -> Path:
        """Named by its step: one that a checkpoint means is replaced by none behind it."""
        return self.folder / f"best-{self._best.step}.safetensors"

    def _report(self, loss: float, until_s: float | None) -> None:
        plan, progress = self.plan, self.progress
        speed = (progress.tokens - self._tokens_before) / max(1e-9, self._trained_s)
        step_s = sum(self._recent_s) / len(self._recent_s)
        left_s = (plan.steps - progress.step) * step_s
        if until_s is not None:
            left_s = min(left_s, max(0.0, until_s - self.observer.clock()))
        self.observer.on_step(
            StepReport(
                progress.step, loss, progress.step / plan.steps, progress.tokens, speed, left_s
            )
        )


def rows_of_step(plan: Plan, step: int) -> list[int]:
    """Indices of a step's rows: each pass reads all rows, in an order of its own."""
    first = step * plan.batch_size
    positions = range(first, min(first + plan.batch_size, plan.picks))
    return [
        int(_order(plan.rows, plan.seed, position // plan.rows)[position % plan.rows])
        for position in positions
    ]


@functools.lru_cache(maxsize=2)
def _order(num_rows: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def rate_factor(plan: Plan, step: int, share: float) -> float:
    """Share of the full learning rate in a step: up over the first steps, then straight down.
    `share`: of the run that is done."""
    return min(1.0, (step + 1) / plan.warmup_steps) * (1.0 - share)
