"""The training loop: batches in, weights out, with checkpoints that resume exactly.

Everything that decides the next step is in `Progress`, the network and the optimizers; all three
are in the checkpoint, so a resumed run computes the same losses bit for bit (unless it is limited
by time: then the learning rate follows the clock). Knows no file format but its checkpoint's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from shoal.train.config import Schedule
from shoal.train.finetune.folder import replace_file
from shoal.train.network import Llama
from shoal.train.optimizers import build_optimizers, fast_bf16, rate_factor, set_rate
from shoal.train.packing import IGNORED, Row, TokenizedDocument, epoch_batches, pad
from shoal.train.progress import Progress, StepReport


@dataclass(frozen=True, slots=True)
class Watch:
    """Callbacks of a run."""

    on_step: Callable[[StepReport], None] = lambda report: None
    evaluate: Callable[[Llama], dict[str, float]] | None = None
    on_checkpoint: Callable[[Llama, Progress], None] = lambda network, progress: None
    clock: Callable[[], float] = time.monotonic


class Trainer:
    """One run: network, optimizers, order of the data, progress."""

    def __init__(
        self,
        network: Llama,
        documents: list[TokenizedDocument],
        schedule: Schedule,
        run_dir: Path,
        *,
        watch: Watch | None = None,
        limit_s: float | None = None,
    ) -> None:
        self.network, self.documents, self.schedule = network, documents, schedule
        self.run_dir, self.limit_s = run_dir, limit_s
        self.watch = watch or Watch()
        self.progress = Progress()
        self.optimizers = build_optimizers(network, schedule)
        self.device = next(network.parameters()).device
        torch.manual_seed(schedule.seed)  # dropout
        self._batches: list[list[Row]] = []
        self._batches_epoch = -1
        self._resumed_at_s = 0.0  # elapsed before this process

    def run(self) -> Progress:
        """Train to the end of the schedule; checkpoints on the way and at the end."""
        clock = self.watch.clock
        started, before = clock(), self.progress.elapsed_s
        self._resumed_at_s = before
        saved_at = started
        tokens_before = self.progress.tokens
        self.network.train()
        while self.share_done() < 1.0:
            loss = self.step()
            self.progress.elapsed_s = before + clock() - started
            speed = (self.progress.tokens - tokens_before) / max(1e-9, clock() - started)
            self._report(loss, speed)
            if self.progress.step % self.schedule.evaluate_every == 0:
                self.evaluate()
            if clock() - saved_at >= self.schedule.checkpoint_every_s:
                self.save()
                saved_at = clock()
        self.evaluate()
        self.save()
        return self.progress

    def share_done(self) -> float:
        """0 to 1: by tokens or by time, whichever is further."""
        by_tokens = self.progress.tokens / self.schedule.tokens
        # a resumed run gets the whole limit again
        elapsed_s = self.progress.elapsed_s - self._resumed_at_s
        by_time = elapsed_s / self.limit_s if self.limit_s else 0.0
        return min(1.0, max(by_tokens, by_time))

    def step(self) -> float:
        """One optimizer step on the next batch; returns the mean loss within the loss mask."""
        batch = pad(self._next_rows())
        inputs = torch.from_numpy(batch.inputs).to(self.device)
        targets = torch.from_numpy(batch.targets).to(self.device)
        loss_mask = torch.from_numpy(batch.loss_mask).to(self.device)
        if self.schedule.prompt_weight == 0.0:  # computes no logits where there is no loss
            targets = targets.masked_fill(~loss_mask, IGNORED)
        loss_mask = loss_mask[targets >= 0]
        set_rate(self.optimizers, rate_factor(self.share_done(), self.progress.step, self.schedule))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bf16(self.device)):
            losses = self.network.losses(inputs, targets)
        loss = _weighted_mean(losses, loss_mask, self.schedule.prompt_weight)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += batch.num_tokens
        value = float(losses[loss_mask].detach().mean()) if bool(loss_mask.any()) else math.nan
        self.progress.losses.append((self.progress.tokens, value))
        return value

    def evaluate(self) -> None:
        """Measure held-out figures and keep them."""
        if self.watch.evaluate is None:
            return
        self.network.eval()
        figures = self.watch.evaluate(self.network)
        self.network.train()
        self.progress.held_out.append((self.progress.tokens, figures))
        self._log({"step": self.progress.step, "tokens": self.progress.tokens, **figures})

    def save(self) -> None:
        """Write the checkpoint; a crash on the way leaves the one before."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
            "random": torch.get_rng_state(),
        }
        replace_file(self.run_dir / "checkpoint.pt", lambda file: torch.save(state, file))
        self.watch.on_checkpoint(self.network, self.progress)

    def resume(self) -> bool:
        """Continue from the checkpoint of `run_dir`; False when there is none."""
        path = self.run_dir / "checkpoint.pt"
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"].cpu())
        return True

    def _next_rows(self) -> list[Row]:
        progress = self.progress
        if self._batches_epoch != progress.epoch:
            self._load_epoch(progress.epoch)
        if progress.batch >= len(self._batches):
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self._load_epoch(progress.epoch)
        rows = self._batches[progress.batch]
        progress.batch += 1
        return rows

    def _load_epoch(self, epoch: int) -> None:
        self._batches = epoch_batches(
            self.documents, self.schedule.batch_tokens, self.schedule.seed, epoch
        )
        self._batches_epoch = epoch

    def _report(self, loss: float, speed: float) -> None:
        share = self.share_done()
        left = (self.schedule.tokens - self.progress.tokens) / max(1e-9, speed)
        if self.limit_s:
            left = min(left, self.limit_s + self._resumed_at_s - self.progress.elapsed_s)
        step = self.progress.step
        self.watch.on_step(
            StepReport(step, loss, share, self.progress.tokens, speed, max(0.0, left))
        )
        if step % 20 == 0:
            self._log(
                {
                    "step": step,
                    "tokens": self.progress.tokens,
                    "loss": round(loss, 4),
                    "tokens_per_s": round(speed),
                    "left_s": round(max(0.0, left)),
                    "share_done": round(share, 4),
                }
            )

    def _log(self, event: dict[str, float]) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(event) + "\n")


def _weighted_mean(losses: Tensor, loss_mask: Tensor, prompt_weight: float) -> Tensor:
    weights = torch.where(loss_mask, 1.0, prompt_weight)
    return (losses * weights).sum() / weights.sum().clamp_min(1e-9)
