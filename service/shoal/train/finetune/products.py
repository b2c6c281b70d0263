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


class Product:
    """x [T, in] -> x W^T + bias + scale (x A^T) B^T, [T, out] in `compute`. What x is computed from
    is kept instead of x where x knows it.

    The low-rank part is added within the product of the matrix, x beside x A^T times W beside B:
    added to a result that is rounded already, most of it would be lost in bfloat16. So a matrix
    with products lies in a larger one,

        W [out, in]        scale * B [out, ranks of all]
        A [ranks, in]      unused
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        low_ranks: LowRanks,
        scale: float,
        compute: torch.dtype,
    ) -> None:
        self.num_outputs, self.num_inputs = weight.shape
        self.bias, self.low_ranks, self.scale, self.compute = bias, low_ranks, scale, compute
        self._matrix = weight
        if low_ranks:
            ranks = sum(len(low_rank.a) for _, low_rank in low_ranks)
            shape = (self.num_outputs + ranks, self.num_inputs + ranks)
            self._matrix = weight.new_zeros(shape)
            self._matrix[: self.num_outputs, : self.num_inputs] = weight
        self.trained = weight if weight.requires_grad else None

    def __call__(self, x: Tensor) -> Tensor:
        leaves = [leaf for _, low_rank in self.low_ranks for leaf in (low_rank.a, low_rank.b)]
        x = x.to(self.compute)
        recipe: Recipe | None = getattr(x, _RECIPE, None)
        return apply(_Product, x, self, recipe, self.trained, self.bias, *leaves)

    def refresh(self) -> None:
        """Puts A and B as they are into the matrix."""
        for columns, (outputs, low_rank) in self.by_columns():
            rows = slice(self.num_outputs + columns.start, self.num_outputs + columns.stop)
            self._matrix[rows, : self.num_inputs] = low_rank.a.detach()
            of_b = slice(self.num_inputs + columns.start, self.num_inputs + columns.stop)
            self._matrix[outputs, of_b] = low_rank.b.detach() * self.scale

    def by_columns(self) -> Iterator[tuple[slice, tuple[slice, LowRank]]]:
        """Each product with its share of the ranks of all."""
        start = 0
        for each in self.low_ranks:
            end = start + len(each[1].a)
            yield slice(start, end), each
            start = end

    @property
    def forwards(self) -> Tensor:
        """[out, in + ranks]"""
        return self._matrix[: self.num_outputs].to(self.compute)

    @property
    def backwards(self) -> Tensor:
        """[out + ranks, in]"""
        return self._matrix[:, : self.num_inputs].to(self.compute)

    @property
    def joined_a(self) -> Tensor:
        """[ranks, in]"""
        return self._matrix[self.num_outputs :, : self.num_inputs]

    @property
    def joined_b(self) -> Tensor:
        """[out, ranks], scaled, zero where a product does not reach."""
        return self._matrix[: self.num_outputs, self.num_inputs :]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, product: Product, recipe: Recipe | None, *leaves: Tensor
    ) -> Tensor:
        bias = None if product.bias is None else product.bias.to(product.compute)
        kept = recipe.tensors if recipe is not None else (x,)
        if product.low_ranks:
            product.refresh()
            inner = x @ product.joined_a.T  # [T, ranks]
            ctx.save_for_backward(inner, *kept)
            x = torch.cat((x, inner), 1)
        elif product.trained is not None:
            ctx.save_for_backward(None, *kept)
        ctx.product = product
        ctx.recompute = recipe.compute if recipe is not None else _same
        return F.linear(x, product.forwards, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Grads:
        product: Product = ctx.product
        both = grad
        if saved := ctx.saved_tensors:
            inner, *kept = saved
            x: Tensor = ctx.recompute(*kept)
            if product.low_ranks:
                to_inner = grad @ product.joined_b  # [T, ranks]
                _add_low_rank_gradients(product, grad, to_inner, inner, x)
                both = torch.cat((grad, to_inner), 1)
            if product.trained is not None:
                _add_product(grad_of(product.trained), grad, x)
        if product.bias is not None and product.bias.requires_grad:
            grad_of(product.bias).add_(grad.sum(0, dtype=product.bias.dtype))
        grad_x = both @ product.backwards if ctx.needs_input_grad[0] else None
        return grad_x, *[None] * (len(ctx.needs_input_grad) - 1)


def _add_low_rank_gradients(
    product: Product, grad: Tensor, to_inner: Tensor, inner: Tensor, x: Tensor
) -> None:
    """grad [T, out], x [T, in]; inner [T, ranks] is x A^T, and to_inner its gradient."""
    of_a = to_inner.T @ x
    for columns, (outputs, low_rank) in product.by_columns():
        grad_of(low_rank.a).add_(of_a[columns])
        _add_product(grad_of(low_rank.b), grad[:, outputs], inner[:, columns], product.scale)


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
