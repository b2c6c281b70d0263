"""The parts that a decoder's layers are made of. Shapes: T tokens of all rows, concatenated."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.files import BLOCKS, StoredTensor
from shoal.model.spec import Activation, AttentionSpec, MlpSpec, NormSpec, Role, RotarySpec
from shoal.model.torch.adapters import AdaptableLinear, Adapters

Transform = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[Activation, Transform] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class TorchWeights:
    """Weights by role in one dtype on one device; bfloat16 and quantized blocks become float32
    exactly."""

    def __init__(
        self, stored: Mapping[Role, StoredTensor], dtype: torch.dtype, device: str
    ) -> None:
        self._stored = stored
        self._dtype = dtype
        self._device = device
        self.adapters = Adapters()
        """Of the layers whose linear layers were made here."""

    def tensor(self, name: str, layer: int | None = None) -> Tensor:
        """A copy, so that the file can be closed or change."""
        return read_tensor(self._stored[Role(name, layer)]).to(self._device, self._dtype)

    def optional(self, name: str, layer: int | None = None) -> Tensor | None:
        """None where the spec has no such weight."""
        return self.tensor(name, layer) if Role(name, layer) in self._stored else None

    def rotary(self, specs: Iterable[RotarySpec], num_positions: int) -> "RotaryTables":
        return RotaryTables(specs, num_positions, self._dtype, self._device)

    def constant(self, values: Sequence[float] | None) -> Tensor | None:
        """Numbers of the spec itself, float32; None where it has none."""
        return None if values is None else torch.tensor(values, device=self._device)

    def table(self, matrix: Tensor) -> Transform:
        """Ids [T] to their rows of a matrix [ids, width]."""
        return partial(F.embedding, weight=matrix)

    def linear(self, layer: int | None, *names: str) -> Transform:
        """One matrix, or several of the same input joined to one product."""
        weights = [self.tensor(f"{name}.weight", layer) for name in names]
        biases = [self.optional(f"{name}.bias", layer) for name in names]
        known = [bias for bias in biases if bias is not None]
        starts: dict[str, int] = {}
        for name in names:
            starts[name] = sum(map(len, weights[: len(starts)]))
        bias = torch.cat(known) if known else None
        linear = AdaptableLinear(torch.cat(weights), bias, starts, self.adapters)
        if layer is not None:
            self.adapters.register(layer, linear)
        return linear

    def combination(self, spec: MlpSpec) -> Transform:
        """What an MLP makes of its first product: [T, intermediate], or twice that where gated, ->
        [T, intermediate]."""
        activation = ACTIVATIONS[spec.activation]
        return partial(_gated, activation) if spec.gated else activation

    def norm(self, spec: NormSpec | None, name: str, layer: int | None = None) -> Transform:
        """Changes nothing where the spec has none."""
        if spec is None:
            return _unchanged
        weight = self.optional(f"{name}.weight", layer)
        if weight is not None and spec.weight_offset:
            weight = (weight.float() + spec.weight_offset).to(weight.dtype)
        return Norm(spec, weight, self.optional(f"{name}.bias", layer))

    def norm_per_head(self, spec: AttentionSpec, name: str, layer: int) -> Transform:
        """Of queries or keys [T, heads, head_dim] where every head has its own weights."""
        assert spec.qk_norm is not None
        norm = spec.qk_norm.norm
        weight = self.tensor(f"{name}.weight", layer).view(-1, spec.head_dim)
        bias = self.optional(f"{name}.bias", layer)
        return NormPerHead(
            Norm(replace(norm, has_weight=False, bias=False), None, None),
            (weight.float() + norm.weight_offset).to(weight.dtype),
            None if bias is None else bias.view(-1, spec.head_dim),
        )


def read_tensor(stored: StoredTensor) -> Tensor:
    """A copy in the format it is stored in; of quantized blocks the numbers, float32."""
    if stored.dtype in BLOCKS:
        return torch.from_numpy(dequantize(stored))
    tensor = torch.from_numpy(np.array(stored.array, order="C"))
    return tensor.view(torch.bfloat16) if stored.dtype == "BF16" else tensor


@dataclass(slots=True)
class Linear:
    """x [.., in] -> [.., out]."""

    weight: Tensor  # [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(slots=True)
class Norm:
    """Over the last dimension."""

    spec: NormSpec
    weight: Tensor | None  # [size], the offset added
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        size = (x.shape[-1],)
        if self.spec.kind == "layer":
            return F.layer_norm(x, size, self.weight, self.bias, self.spec.eps)
        x = F.rms_norm(x, size, self.weight, self.spec.eps)
        return x if self.bias is None else x + self.bias


@dataclass(slots=True)
class NormPerHead:
    """Over each head by itself; x [T, heads, head_dim]."""

    plain: Transform  # the norm without weight and bias
    weight: Tensor  # [heads, head_dim], the offset added
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        x = self.plain(x) * self.weight
        return x if self.bias is None else x + self.bias


def _unchanged(x: Tensor) -> Tensor:
    return x


def _gated(activation: Transform, x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return activation(gate) * up


def over_all_heads(norm: Transform) -> Transform:
    """The norm over all heads of a token together; x [T, heads, head_dim]."""
    return lambda x: norm(x.flatten(1)).view(x.shape)


class Mlp:
    """down(act(gate(x)) * up(x)) where gated, else down(act(up(x))). x [T, hidden]."""

    def __init__(self, spec: MlpSpec, weights: TorchWeights, layer: int, prefix: str = "") -> None:
        """`prefix`: of its roles, where the layer has several MLPs."""
        self._combine = weights.combination(spec)
        names = ("gate", "up") if spec.gated else ("up",)
        self._up = weights.linear(layer, *(prefix + name for name in names))
        self._down = weights.linear(layer, f"{prefix}down")

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(self._combine(self._up(x)))


class RotaryTables:
    """Cosines and sines of every position, one table for each distinct rotation of a model."""

    def __init__(
        self, specs: Iterable[RotarySpec], num_positions: int, dtype: torch.dtype, device: str
    ) -> None:
        self._tables: dict[RotarySpec, tuple[Tensor, Tensor]] = {}
        positions = torch.arange(num_positions, dtype=torch.float32)
        for spec in specs:
            angles = torch.outer(positions, torch.tensor(spec.inv_freq, dtype=torch.float32))
            cos, sin = angles.cos() * spec.magnitude, angles.sin() * spec.magnitude
            self._tables[spec] = (cos.to(device, dtype), sin.to(device, dtype))  # [P, pairs]

    def at(self, positions: Tensor) -> dict[RotarySpec, tuple[Tensor, Tensor]]:
        """(cosines, sines) [T, 1, pairs] of these positions [T]."""
        return {
            spec: (cos[positions][:, None], sin[positions][:, None])
            for spec, (cos, sin) in self._tables.items()
        }


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotary positions (RoFormer, Su et al., 2021) of the first 2 * pairs channels of
    x [T, heads, head_dim]; the others stay as they are. Pair i is channels i and i + pairs, or
    2i and 2i + 1 where interleaved."""
    pairs = cos.shape[-1]
    sizes = (2 * pairs, x.shape[-1] - 2 * pairs)
    turned, rest = torch.split_with_sizes(x, sizes, -1)
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.stack(rotated, -1).flatten(-2) if interleaved else torch.cat(rotated, -1)
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned
