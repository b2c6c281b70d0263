"""Weights as tensors, linear layers and activations that the networks share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.checkpoint.files import StoredTensor
from shoal.model.config import Activation

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(slots=True)
class Linear:
    """x [.., in] -> [.., out]."""

    weight: Tensor  # [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Weights:
    """A checkpoint's tensors in one dtype on one device; bfloat16 becomes float32 exactly."""

    def __init__(self, stored: Mapping[str, StoredTensor], dtype: torch.dtype, device: str) -> None:
        self._stored = stored
        self._dtype = dtype
        self._device = device

    def tensor(self, name: str) -> Tensor:
        return _as_torch(self._stored[name]).to(self._device, self._dtype)

    def joined(self, *names: str, transposed: bool = False) -> Linear:
        """Several linears of one input as one; `transposed` for weights stored [in, out]."""
        parts = [self.tensor(f"{name}.weight") for name in names]
        weight = torch.cat([part.T if transposed else part for part in parts]).contiguous()
        bias = None
        if f"{names[0]}.bias" in self._stored:
            bias = torch.cat([self.tensor(f"{name}.bias") for name in names])
        return Linear(weight, bias)


def _as_torch(stored: StoredTensor) -> Tensor:
    """A copy, so that the file can be closed or change."""
    tensor = torch.from_numpy(stored.array.copy())
    return tensor.view(torch.bfloat16) if stored.dtype == "BF16" else tensor
