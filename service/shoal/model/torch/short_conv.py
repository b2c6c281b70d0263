"""Gated short convolutions of a batch of rows, in plain PyTorch; their state is in the KV blocks.

Of each block the last values of b * x stay, as many as the convolution looks back. A token finds
the values before it among this step's and in the blocks of its row; before the first token of a
sequence lies zero, chosen by selection, so stale numbers, NaN too, cannot leak.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shoal.model.spec import ShortConvSpec
from shoal.model.torch.layers import TorchWeights


@dataclass(slots=True)
class ConvBatch:
    """What one step reads and keeps in layers of one kernel size; T tokens, H values of tokens
    before the step, W tokens whose values stay."""

    history: Tensor  # [H] places in the cache
    sources: Tensor  # [kernel_size, T] of each tap a row of [this step's T | history H | zero]
    kept: Tensor  # [W] tokens of the step
    kept_places: Tensor  # [W] their places in the cache


ConvBatches = Mapping[int, ConvBatch]
"""By kernel size."""


class Convolves(Protocol):
    """What a layer's convolution finds the values of earlier tokens in."""

    def convolve(self, values: Tensor, taps: Tensor, batches: ConvBatches) -> Tensor:
        """values [T, hidden] of the step's tokens, taps [hidden, kernel size] -> [T, hidden]."""
        ...


class ConvLayer:
    """The values that one layer keeps, float32 [blocks * values per block, hidden]."""

    def __init__(self, num_values: int, hidden_size: int, device: str) -> None:
        self.values = torch.zeros((num_values, hidden_size), dtype=torch.float32, device=device)

    def convolve(self, values: Tensor, taps: Tensor, batches: ConvBatches) -> Tensor:
        """The last values of each block are kept; oldest value first."""
        batch = batches[taps.shape[1]]
        zero = values.new_zeros(1, values.shape[1])
        known = torch.cat((values, self.values[batch.history], zero))
        self.values[batch.kept_places] = values[batch.kept]
        mixed = torch.zeros_like(values)
        for tap, sources in zip(taps.T, batch.sources, strict=True):
            mixed += tap * known[sources]
        return mixed


class ShortConv:
    """b, c, x = in(u); out(c * conv(b * x)). Between the two in float32.
    u [T, hidden] -> the same shape."""

    def __init__(self, spec: ShortConvSpec, weights: TorchWeights, index: int) -> None:
        self._in = weights.linear(index, "conv_in")
        self._out = weights.linear(index, "conv_out")
        self._taps = weights.tensor("conv.weight", index)  # [hidden, kernel]
        self._bias = weights.optional("conv.bias", index)

    def __call__(self, u: Tensor, batches: ConvBatches, cache: Convolves) -> Tensor:
        b, c, x = self._in(u).float().chunk(3, -1)
        mixed = cache.convolve(b * x, self._taps.float(), batches)
        if self._bias is not None:
            mixed = mixed + self._bias
        return self._out((c * mixed).to(u.dtype))
