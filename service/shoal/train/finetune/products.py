"""What a trained layer is made of, with gradients written out: less is kept for them than by
composition, and gradients of matrices are added in place to `.grad` of the leaves.

x is [T, ...]; `compute` and `wide` as in `TrainedWeights`.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.spec import NormSpec
from shoal.model.torch.layers import Transform
from shoal.train.finetune.lora import LowRank

LowRanks = list[tuple[slice, LowRank]]
"""Products of a matrix, each with the outputs that it changes."""
_Grads = tuple[Tensor | None, ...]


def grad_of(leaf: Tensor) -> Tensor:
    """What gradients of the leaf are added to; zero at first."""
    if leaf.grad is None:
        leaf.grad = torch.zeros_like(leaf)
    return leaf.grad


@dataclass(slots=True)
class Lookup:
    """Ids [T] -> their rows [T, width] in `wide`."""

    matrix: Tensor
    wide: torch.dtype

    def __call__(self, ids: Tensor) -> Tensor:
        rows: Tensor = _Lookup.apply(ids, self.matrix, self.wide)
        return rows


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, ids: Tensor, matrix: Tensor, wide: torch.dtype
    ) -> Tensor:
        ctx.ids, ctx.matrix = ids, matrix
        return matrix.index_select(0, ids).to(wide)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:  # type: ignore[override]
        grad_of(ctx.matrix).index_add_(0, ctx.ids, grad)
        return None, None, None


@dataclass(slots=True)
class Product:
    """x [T, in] -> x W^T + bias + scale (x A^T) B^T, [T, out] in `compute`."""

    weight: Tensor  # [out, in]
    bias: Tensor | None
    low_ranks: LowRanks
    scale: float
    compute: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        leaves = [x for _, low_rank in self.low_ranks for x in (low_rank.a, low_rank.b)]
        out: Tensor = _Product.apply(x.to(self.compute), self, self.weight, self.bias, *leaves)
        return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, *leaves: Tensor) -> Tensor:  # type: ignore[override]
        compute, bias = product.compute, product.bias
        out = F.linear(x, product.weight.to(compute), None if bias is None else bias.to(compute))
        inner: list[Tensor] = []
        for outputs, low_rank in product.low_ranks:
            inner.append(x @ low_rank.a.to(compute).T)  # [T, rank]
            out[:, outputs].addmm_(inner[-1], low_rank.b.to(compute).T, alpha=product.scale)
        ctx.product = product
        is_kept = product.weight.requires_grad or product.low_ranks
        ctx.save_for_backward(*([x, *inner] if is_kept else []))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:  # type: ignore[override]
        product: Product = ctx.product
        compute, weight, bias = product.compute, product.weight, product.bias
        x, *inner = ctx.saved_tensors or (None,)
        grad_x = grad @ weight.to(compute) if ctx.needs_input_grad[0] else None
        for (outputs, low_rank), kept in zip(product.low_ranks, inner, strict=True):
            a, b = low_rank.a, low_rank.b
            part = grad[:, outputs]
            to_inner = part @ b.to(compute) * product.scale  # [T, rank]
            _add_product(grad_of(b), part, kept, product.scale)
            _add_product(grad_of(a), to_inner, x)
            if grad_x is not None:
                grad_x.addmm_(to_inner, a.to(compute))
        if weight.requires_grad:
            _add_product(grad_of(weight), grad, x)
        if bias is not None and bias.requires_grad:
            grad_of(bias).add_(grad.sum(0, dtype=bias.dtype))
        return grad_x, *[None] * (len(ctx.needs_input_grad) - 1)


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> None:
    """total [out, in] += scale * left^T right, of left [T, out] and right [T, in]."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right, alpha=scale)
    else:
        total.add_(left.T @ right, alpha=scale)


@dataclass(slots=True)
class Gated:
    """x [T, 2 * intermediate] -> activation(gate) * up; only x is kept for the gradient."""

    activation: Transform

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = _Gated.apply(x, self.activation)
        return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Transform) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.activation = activation
        gate, up = x.chunk(2, -1)
        return activation(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        found = torch.empty_like(x)
        of_gate, of_up = found.chunk(2, -1)
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            activated = ctx.activation(gate)
        torch.mul(grad, activated.detach(), out=of_up)
        of_gate.copy_(torch.autograd.grad(activated, gate, grad * up)[0])
        return found, None


@dataclass(slots=True)
class TrainedNorm:
    """Over the last dimension, computed in `wide`; the result is in `compute`."""

    spec: NormSpec
    weight: Tensor | None  # [size], without the offset
    bias: Tensor | None
    wide: torch.dtype
    compute: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        weight, spec = self.weight, self.spec
        if weight is not None and spec.weight_offset:
            weight = weight + spec.weight_offset
        if spec.kind == "layer":
            size = (x.shape[-1],)
            out = F.layer_norm(x.to(self.wide), size, weight, self.bias, spec.eps)
            return out.to(self.compute)
        out = _RmsNorm.apply(x, weight, spec.eps, self.wide, self.compute)
        return out if self.bias is None else (out + self.bias).to(self.compute)


class _RmsNorm(torch.autograd.Function):
    """Zhang and Sennrich, 2019; keeps x and one number per vector."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        eps: float,
        wide: torch.dtype,
        compute: torch.dtype,
    ) -> Tensor:
        ctx.wide = wide
        values = x.to(wide)
        mean = torch.linalg.vecdot(values, values)[..., None] / x.shape[-1]
        factor = mean.add_(eps).rsqrt_()  # [.., 1]
        ctx.save_for_backward(x, weight, factor)
        out = values * factor
        return (out if weight is None else out.mul_(weight)).to(compute)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:  # type: ignore[override]
        x, weight, factor = ctx.saved_tensors
        normal = x.to(ctx.wide) * factor
        grad, of_weight = grad.to(ctx.wide), None
        if weight is not None:
            if ctx.needs_input_grad[1]:
                of_weight = (grad * normal).flatten(0, -2).sum(0)
            grad = grad * weight
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None, None
        along = torch.linalg.vecdot(grad, normal)[..., None] / x.shape[-1]
        found = torch.addcmul(grad, normal, along, value=-1).mul_(factor)
        return found.to(x.dtype), of_weight, None, None, None
