"""What a trained layer is made of, with gradients written out: less is kept for them than by
composition, and gradients of matrices are added in place to `.grad` of the leaves.

x is [T, ...]; `compute` and `wide` as in `TrainedWeights`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.spec import NormSpec
from shoal.model.torch.layers import Transform
from shoal.train.finetune.lora import LowRank

LowRanks = list[tuple[slice, LowRank]]
"""Products of a matrix, each with the outputs that it changes."""
_Grads = tuple[Tensor | None, ...]
_RECIPE = "recipe"


class Recipe(NamedTuple):
    """How a tensor is computed again from others that are kept anyway."""

    compute: Callable[..., Tensor]
    tensors: tuple[Tensor | None, ...]


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    """Of a function with one output."""
    out: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out


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
        return apply(_Lookup, ids, self.matrix, self.wide)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, matrix: Tensor, wide: torch.dtype) -> Tensor:
        ctx.ids, ctx.matrix = ids, matrix
        return matrix.index_select(0, ids).to(wide)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:
        grad_of(ctx.matrix).index_add_(0, ctx.ids, grad)
        return None, None, None


@dataclass(slots=True)
class Product:
    """x [T, in] -> x W^T + bias + scale (x A^T) B^T, [T, out] in `compute`. What x is computed from
    is kept instead of x where x knows it."""

    weight: Tensor  # [out, in]
    bias: Tensor | None
    low_ranks: LowRanks
    scale: float
    compute: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        leaves = [leaf for _, low_rank in self.low_ranks for leaf in (low_rank.a, low_rank.b)]
        x = x.to(self.compute)
        recipe: Recipe | None = getattr(x, _RECIPE, None)
        return apply(_Product, x, self, recipe, self.weight, self.bias, *leaves)

    def joined_a(self) -> Tensor:
        """A of all products, one below the other."""
        matrices = [low_rank.a for _, low_rank in self.low_ranks]
        joined = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
        return joined.to(self.compute)

    def by_columns(self) -> Iterator[tuple[slice, tuple[slice, LowRank]]]:
        """Each product with its rows of the joined A."""
        start = 0
        for each in self.low_ranks:
            end = start + len(each[1].a)
            yield slice(start, end), each
            start = end


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, product: Product, recipe: Recipe | None, *leaves: Tensor
    ) -> Tensor:
        compute, bias = product.compute, product.bias
        out = F.linear(x, product.weight.to(compute), None if bias is None else bias.to(compute))
        kept = recipe.tensors if recipe is not None else (x,)
        if product.low_ranks:
            inner = x @ product.joined_a().T  # [T, ranks of all]
            for columns, (outputs, low_rank) in product.by_columns():
                b = low_rank.b.to(compute)
                out[:, outputs].addmm_(inner[:, columns], b.T, alpha=product.scale)
            ctx.save_for_backward(inner, *kept)
        elif product.weight.requires_grad:
            ctx.save_for_backward(None, *kept)
        ctx.product = product
        ctx.recompute = recipe.compute if recipe is not None else _same
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:
        product: Product = ctx.product
        compute, weight, bias = product.compute, product.weight, product.bias
        grad_x = grad @ weight.to(compute) if ctx.needs_input_grad[0] else None
        if saved := ctx.saved_tensors:
            inner, *kept = saved
            x: Tensor = ctx.recompute(*kept)
            if product.low_ranks:
                to_inner = _add_low_rank_gradients(product, grad, inner, x)
                if grad_x is not None:
                    grad_x.addmm_(to_inner, product.joined_a())
            if weight.requires_grad:
                _add_product(grad_of(weight), grad, x)
        if bias is not None and bias.requires_grad:
            grad_of(bias).add_(grad.sum(0, dtype=bias.dtype))
        return grad_x, *[None] * (len(ctx.needs_input_grad) - 1)


def _add_low_rank_gradients(product: Product, grad: Tensor, inner: Tensor, x: Tensor) -> Tensor:
    """grad [T, out], inner [T, ranks of all], x [T, in] -> the gradient of inner."""
    to_inner = torch.empty_like(inner)
    for columns, (outputs, low_rank) in product.by_columns():
        part = grad[:, outputs]
        to_inner[:, columns] = part @ low_rank.b.to(product.compute)
        _add_product(grad_of(low_rank.b), part, inner[:, columns], product.scale)
    to_inner *= product.scale
    of_a = to_inner.T @ x
    for columns, (_, low_rank) in product.by_columns():
        grad_of(low_rank.a).add_(of_a[columns])
    return to_inner


def _same(x: Tensor) -> Tensor:
    return x


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
        out = apply(_Gated, x, self.activation)
        setattr(out, _RECIPE, Recipe(partial(_gated, self.activation), (x,)))
        return out


def _gated(activation: Transform, x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return activation(gate).mul_(up)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Transform) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        return _gated(activation, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        found = torch.empty_like(x)
        of_gate, of_up = found.chunk(2, -1)
        if ctx.activation is F.silu:
            torch.mul(grad, F.silu(gate), out=of_up)
            torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=of_gate)
            return found, None
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
            normalize = partial(_layer_norm, spec.eps, self.wide, self.compute)
            out = normalize(x, weight, self.bias)
        else:
            normalize = partial(_rms_norm, spec.eps, self.wide, self.compute)
            out = apply(_RmsNorm, x, weight, self.bias, normalize, self.wide)
        setattr(out, _RECIPE, Recipe(normalize, (x, weight, self.bias)))
        return out


def _layer_norm(
    eps: float,
    wide: torch.dtype,
    compute: torch.dtype,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    return F.layer_norm(x.to(wide), (x.shape[-1],), weight, bias, eps).to(compute)


def _rms_norm(
    eps: float,
    wide: torch.dtype,
    compute: torch.dtype,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Zhang and Sennrich, 2019."""
    x = x.to(wide)
    out = x * _rms_factor(x, eps)
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out.to(compute)


def _rms_factor(x: Tensor, eps: float) -> Tensor:
    """[.., 1]"""
    mean: Tensor = torch.linalg.vecdot(x, x)[..., None] / x.shape[-1]
    return mean.add_(eps).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    """Only x is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        normalize: "partial[Tensor]",
        wide: torch.dtype,
    ) -> Tensor:
        ctx.eps, ctx.wide = normalize.args[0], wide
        ctx.save_for_backward(x, weight)
        out: Tensor = normalize(x, weight, bias)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:
        x, weight = ctx.saved_tensors
        grad, of_weight, of_bias, of_x = grad.to(ctx.wide), None, None, None
        values = x.to(ctx.wide)
        factor = _rms_factor(values, ctx.eps)
        normal = values * factor
        if ctx.needs_input_grad[1]:
            of_weight = (grad * normal).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[2]:
            of_bias = grad.flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            if weight is not None:
                grad = grad * weight
            along = torch.linalg.vecdot(grad, normal)[..., None] / x.shape[-1]
            of_x = torch.addcmul(grad, normal, along, value=-1).mul_(factor).to(x.dtype)
        return of_x, of_weight, of_bias, None, None
