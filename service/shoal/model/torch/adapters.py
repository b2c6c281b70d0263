"""LoRA adapters (Hu et al., 2021) beside the matrices of a layer: y = W x + B (A x), every token
with the adapter of its row or with none.

A product's sums do not depend on how many tokens have it: no matrix product, whose order of
additions does.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.adapter import AdapterMatrix

AdapterTokens = dict[int, Tensor]
"""Adapter id -> which of the step's tokens pass it."""


@dataclass(slots=True)
class _Product:
    """One low-rank product of one adapter."""

    a: Tensor  # [rank, in]
    parts: list[tuple[int, Tensor]]  # first output of a matrix, and its rows [out, rank]

    def add_to(self, out: Tensor, x: Tensor, tokens: Tensor) -> None:
        """out [T, out] grows by the product of x [T, in] at these tokens; float32 sums."""
        inner = _each(self.a, x[tokens].float())  # [n, rank]
        for first, b in self.parts:
            delta = _each(b, inner)
            end = first + len(b)
            out[tokens, first:end] = (out[tokens, first:end].float() + delta).to(out.dtype)


def _each(matrix: Tensor, vectors: Tensor) -> Tensor:
    """matrix [out, in] times each of the vectors [n, in], every sum by itself: [n, out]."""
    product: Tensor = torch.linalg.vecdot(matrix, vectors[:, None])
    return product


class AdaptableLinear:
    """x [T, in] -> [T, out]: one matrix or several of the same input, and adapters of them."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, starts: dict[str, int], adapters: "Adapters"
    ) -> None:
        """`starts`: first output of each role that lies in the weight."""
        self.weight = weight  # [out, in]
        self.bias = bias
        self.starts = starts
        self.products: dict[int, list[_Product]] = {}
        self._adapters = adapters

    def __call__(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight, self.bias)
        for adapter_id, tokens in self._adapters.tokens.items():
            for product in self.products.get(adapter_id, ()):
                product.add_to(out, x, tokens)
        return out


class Adapters:
    """The adapters of a decoder, and which tokens of the step under way pass which."""

    def __init__(self) -> None:
        self.tokens: AdapterTokens = {}
        """Of the step; set before it."""
        self._linears: dict[tuple[int, str], AdaptableLinear] = {}  # by (layer, role)

    def register(self, layer: int, linear: AdaptableLinear) -> None:
        """A linear layer that adapters may change."""
        for role in linear.starts:
            self._linears[layer, role] = linear

    def load(self, adapter_id: int, matrices: Iterable[AdapterMatrix]) -> None:
        for matrix in matrices:
            linear = self._linears[matrix.layer, matrix.roles[0]]
            device = linear.weight.device
            parts = [
                (linear.starts[role], torch.from_numpy(b).to(device))
                for role, b in zip(matrix.roles, matrix.b, strict=True)
            ]
            product = _Product(torch.from_numpy(matrix.a).to(device), parts)
            linear.products.setdefault(adapter_id, []).append(product)

    def unload(self, adapter_id: int) -> None:
        """Unknown ids are ignored."""
        for linear in self._linears.values():
            linear.products.pop(adapter_id, None)
