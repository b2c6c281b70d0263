"""Cross entropy over a large vocabulary: some positions at a time, the gradient with the loss, so
that logits of all positions are never there at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.spec import DecoderSpec
from shoal.train.finetune.products import grad_of

LOGITS_AT_ONCE = 1 << 22


class Head(NamedTuple):
    """From the last vectors to logits."""

    spec: DecoderSpec
    weight: Tensor  # [vocab, width]
    bias: Tensor | None  # [vocab]
    compute: torch.dtype
    """Of the products; what follows is in float32 or wider."""

    def nats(self, hidden: Tensor, targets: Tensor) -> float:
        """Sum of -log p(target); hidden [L, width], targets [L]."""
        weight = self.weight.to(self.compute)
        with torch.no_grad():
            return sum(
                -_of_targets(self._logits(part, weight)[0], wanted).double().sum().item()
                for part, wanted in self._chunks(hidden, targets)
            )

    def backward(self, hidden: Tensor, targets: Tensor, scale: float) -> tuple[float, Tensor]:
        """(sum of -log p(target), gradient [L, width] of `scale` times it); the gradient of the
        head itself is added to its leaves where they are trained."""
        weight = self.weight.to(self.compute)
        nats = 0.0
        grads: list[Tensor] = []
        with torch.no_grad():
            for part, wanted in self._chunks(hidden, targets):
                logprobs, slope = self._logits(part, weight)
                nats -= _of_targets(logprobs, wanted).double().sum().item()
                grad = logprobs.exp_()
                grad[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                if slope is not None:
                    grad *= slope
                grad *= scale * self.spec.logit_multiplier
                if self.bias is not None and self.bias.requires_grad:
                    grad_of(self.bias).add_(grad.sum(0))
                grad = grad.to(self.compute)
                grads.append(grad @ weight)
                if self.weight.requires_grad:
                    total = grad_of(self.weight)
                    if total.dtype == grad.dtype:
                        total.addmm_(grad.T, part)
                    else:
                        total.add_(grad.T @ part)
        return nats, torch.cat(grads)

    def _chunks(self, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(16, LOGITS_AT_ONCE // len(self.weight))
        hidden = hidden.to(self.compute)
        for start in range(0, len(hidden), size):
            yield hidden[start : start + size], targets[start : start + size]

    def _logits(self, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """log-probabilities [n, vocab], and the slope of the cap at each logit."""
        spec = self.spec
        wide = torch.promote_types(self.compute, torch.float32)
        logits = F.linear(hidden, weight).to(wide)
        if self.bias is not None:
            logits += self.bias
        if spec.logit_multiplier != 1:
            logits *= spec.logit_multiplier
        slope = None
        if spec.logit_soft_cap is not None:
            turned = torch.tanh(logits / spec.logit_soft_cap)
            logits, slope = spec.logit_soft_cap * turned, 1 - turned.square()
        return logits.log_softmax(-1), slope


def _of_targets(logprobs: Tensor, targets: Tensor) -> Tensor:
    return logprobs.gather(1, targets[:, None])
