"""Experts of a layer: a router picks some MLPs for each token (Shazeer et al., 2017)."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.spec import MlpSpec
from shoal.model.torch.layers import Mlp, TorchWeights


def make_mlp(spec: MlpSpec, weights: TorchWeights, layer: int) -> "Mlp | Experts":
    """What stands in the place of a layer's MLP."""
    return Mlp(spec, weights, layer) if spec.experts is None else Experts(spec, weights, layer)


class Experts:
    """Some MLPs per token, and perhaps one that all tokens pass. x [T, hidden]."""

    def __init__(self, spec: MlpSpec, weights: TorchWeights, layer: int) -> None:
        assert spec.experts is not None
        self._spec = spec.experts
        # The router stays float32: close logits decide which expert a token meets.
        self._router = weights.tensor("router.weight", layer).float()  # [experts, hidden]
        one = replace(spec, experts=None)
        self._experts = [
            Mlp(one, weights, layer, f"experts.{index}.") for index in range(len(self._router))
        ]
        self._shared: Mlp | None = None
        if (size := self._spec.shared_intermediate_size) is not None:
            self._shared = Mlp(replace(one, intermediate_size=size), weights, layer, "shared.")
        self._shared_gate = weights.optional("shared_gate.weight", layer)  # [1, hidden]

    def __call__(self, x: Tensor) -> Tensor:
        picked, factors = self._route(x)
        parts = x.new_empty((*picked.shape, x.shape[-1]))  # [T, per token, hidden]
        for index, expert in enumerate(self._experts):
            token, rank = torch.where(picked == index)
            if len(token):
                parts[token, rank] = expert(x[token]) * factors[token, rank, None]
        y, *others = parts.unbind(1)
        for part in others:  # one after the other: the order is the token's own
            y = y + part
        if self._shared is None:
            return y
        shared = self._shared(x)
        if self._shared_gate is not None:
            shared = F.linear(x.float(), self._shared_gate.float()).sigmoid().to(x.dtype) * shared
        return y + shared

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(experts [T, per token], best first; their weights, the same). A stable sort, since
        `topk` does not say which of equal logits it takes."""
        logits = F.linear(x.float(), self._router)  # [T, experts]
        order = torch.sort(logits, dim=-1, descending=True, stable=True).indices
        picked = order[:, : self._spec.num_experts_per_token]
        if self._spec.normalized:
            factors = logits.gather(-1, picked).softmax(-1)
        else:
            factors = logits.softmax(-1).gather(-1, picked)
        return picked, factors.to(x.dtype)
