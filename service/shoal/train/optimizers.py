"""Muon for matrices, AdamW for embedding and norms, the warm-up/stable/decay learning rate.

Muon: Jordan et al. 2024, momentum made orthogonal by five Newton-Schulz iterations.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from shoal.train.config import Schedule

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)

# The gradient of a rare token's row is nearly always the same tiny push away from the frequent
# ones. Adam would scale it up to full steps until all rare tokens point the same way (Gao et al.
# 2019, "Representation degeneration"); with an epsilon of this size it stays tiny.
_TOKEN_EPS = 3e-5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is replaced by the nearest orthogonal matrix."""

    def __init__(
        self, params: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is used
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                self._step_same_shape(weights, group)

    def _step_same_shape(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        updates = []
        for weight in weights:
            assert weight.grad is not None
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            updates.append(weight.grad.lerp(state["momentum"], group["momentum"]))
        directions = orthogonalize(torch.stack(updates))
        rows, columns = weights[0].shape
        scale = max(1.0, rows / columns) ** 0.5  # keeps the change of the output even across shapes
        for weight, direction in zip(weights, directions, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(direction, alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Push all singular values near 1. matrices (count, rows, columns), same shape back."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if fast_bf16(matrices.device):  # singular values near 1 are enough; the rate is small
        x = x.to(torch.bfloat16)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def fast_bf16(device: torch.device) -> bool:
    """Are bfloat16 matrix products much faster there than float32?"""
    return device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)


def build_optimizers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for the rest (embedding, norms)."""
    matrices: list[nn.Parameter] = []
    tokens: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        if weight.ndim != 2:
            others.append(weight)
        else:
            of_tokens = "embed_tokens" in name or "lm_head" in name
            (tokens if of_tokens else matrices).append(weight)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, schedule.matrix_lr, schedule.weight_decay))
    groups: list[dict[str, Any]] = [{"params": tokens, "eps": _TOKEN_EPS}, {"params": others}]
    if groups := [group for group in groups if group["params"]]:
        optimizers.append(
            torch.optim.AdamW(groups, lr=schedule.other_lr, betas=(0.9, 0.98), weight_decay=0.0)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its full value."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor


def rate_factor(progress: float, step: int, schedule: Schedule) -> float:
    """Share of the full rate at `progress` (0 to 1 over the whole run): linear warm-up by step,
    full, then linear to zero over the last `decay_share`."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    if schedule.decay_share == 0.0:
        return warm
    return warm * min(1.0, max(0.0, 1.0 - progress) / schedule.decay_share)
