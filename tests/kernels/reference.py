"""What the native kernels compute, once more in plain PyTorch: one sequence without a cache.

Written to be read and compared with. In float64 it is the network itself; the other kinds of
arithmetic round where the kernels round.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    ExpertsSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    QKNormSpec,
    Role,
    RotarySpec,
    ShortConvSpec,
)
from tests.kernels.building import (
    Weights,
    bf16_weights,
    make_weights,
    random_tokens,
    to_float32,
)
from tests.kernels.quantizing import int4_weights, int8_rows, int8_weights

Arithmetic = Literal["float64", "float32", "bfloat16", "int8", "int4", "int16_block"]
"""int8, int4: integers in groups of 32, with int4 embedding and head in 8 bits. int16_block:
bfloat16 weights multiplied as 16-bit integers, as some kernel sets do."""
_BLOCK, _BLOCK_MAX = 32, 8191

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def int16_weights(weight: Tensor) -> Tensor:
    """Each output [N, K] as integers of 13 bits and a sign at one power of two. A matrix with an
    output that would lose more than 2^-11 of itself stays what it is."""
    _, exponent = torch.frexp(weight.abs().amax(-1, keepdim=True))
    unit = torch.exp2((exponent - 13).to(weight.dtype))
    rounded = torch.round(weight / unit) * unit
    lost = (rounded - weight).square().sum(-1) > weight.square().sum(-1) * 2**-22
    return weight if bool(lost.any()) else rounded


def int16_rows(x: Tensor) -> Tensor:
    """Each 32 inputs of a row [T, K] as integers within +-8191 of a common scale."""
    padded = F.pad(x, (0, -x.shape[-1] % _BLOCK))
    blocks = padded.reshape(len(x), -1, _BLOCK)
    largest = blocks.abs().amax(-1, keepdim=True)
    integers = torch.round(blocks * (_BLOCK_MAX / largest.clamp_min(1e-30)))
    return (integers * (largest / _BLOCK_MAX)).reshape(len(x), -1)[:, : x.shape[-1]]


def linear(x: Tensor, weights: Sequence[Tensor], arithmetic: Arithmetic) -> list[Tensor]:
    """x [T, K] times each weight [N, K]; for int8 and int4 both are rounded in groups of 32.
    The weights are those of one matrix of the library, which become integers together or not."""
    if arithmetic == "int16_block":
        joined = int16_weights(torch.cat([w.bfloat16().to(x.dtype) for w in weights]))
        parts = joined.split([len(w) for w in weights])
        return [(int16_rows(x).double() @ w.double().T).to(x.dtype) for w in parts]
    if arithmetic == "bfloat16":
        return [x @ w.bfloat16().to(x.dtype).T for w in weights]
    if arithmetic in ("int8", "int4"):
        rounded, kept = int8_rows(x.numpy()), int8_weights if arithmetic == "int8" else int4_weights
        products = [rounded @ kept(w.numpy()).astype(np.float64).T for w in weights]
        return [torch.from_numpy(product).to(x.dtype) for product in products]
    return [x @ w.T for w in weights]


def rotate(x: Tensor, rotary: RotarySpec) -> Tensor:
    """Rotary positions 0.. of x [T, H, d]: channel i turns with i + half (Su et al., 2021), or
    with its neighbour."""
    positions = torch.arange(len(x), dtype=torch.float32)
    angle = torch.outer(positions, torch.tensor(rotary.inv_freq)).double()
    cos, sin = (f(angle).to(x.dtype)[:, None] * rotary.magnitude for f in (torch.cos, torch.sin))
    half = len(rotary.inv_freq)
    if rotary.interleaved:
        pairs = torch.view_as_complex(x[..., : 2 * half].unflatten(-1, (half, 2)).contiguous())
        turned = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)
        return torch.cat((turned, x[..., 2 * half :]), -1)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


def capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)


def attend(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [T, H, d], k and v [T, KV, d] -> [T, H * d]; grouped heads, window, soft cap, ALiBi."""
    group = spec.num_heads // spec.num_kv_heads
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    scores = capped(torch.einsum("qhd,khd->hqk", q, k) * spec.scale, spec.soft_cap)
    position = torch.arange(len(q))
    behind = position[:, None] - position  # [query, key]
    if spec.alibi_slopes is not None:
        slopes = torch.tensor(spec.alibi_slopes, dtype=scores.dtype)
        scores = scores - slopes[:, None, None] * behind
    seen = behind.abs() < (spec.window or len(q))
    if spec.causal:
        seen &= behind >= 0
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


class Reference:
    """A whole network."""

    def __init__(
        self, spec: DecoderSpec, weights: Weights, arithmetic: Arithmetic = "float64"
    ) -> None:
        self.spec = spec
        self.arithmetic: Arithmetic = arithmetic
        dtype = torch.float64 if arithmetic == "float64" else torch.float32
        self.weights = {
            role: torch.from_numpy(to_float32(weight).copy()).to(dtype)
            for role, weight in weights.items()
        }

    def forward(self, token_ids: Sequence[int]) -> NDArray[Any]:
        """Logits [T, vocab_size]; of a network without a head its final vectors
        [T, hidden_size]."""
        spec = self.spec
        x = self._embed()[list(token_ids)] * spec.embedding_multiplier  # [T, hidden_size]
        if spec.embedding_size is not None:
            (x,) = self._project(x, "embedding_projection")
        if spec.num_token_types:
            x = x + self.weights[Role("token_type_embedding")][0]
        if spec.learned_positions:
            x = x + self.weights[Role("position_embedding")][: len(x)]
        x = self._norm(x, spec.embedding_norm, "embedding_norm")
        for index, layer in enumerate(spec.layers):
            x = self._layer(x, layer, index)
        x = self._norm(x, spec.final_norm, "final_norm")
        if not spec.has_head:
            return np.asarray(x.numpy())
        if spec.embedding_size is not None:
            (x,) = self._project(x, "head_projection")
        (logits,) = linear(
            x, [self.weights[Role("embedding" if spec.tied_head else "head.weight")]],
            "int8" if self.arithmetic == "int4" else self.arithmetic,
        )  # fmt: skip
        if spec.head_bias:
            logits = logits + self.weights[Role("head.bias")]
        logits = logits * spec.logit_multiplier
        return np.asarray(capped(logits, spec.logit_soft_cap).numpy())

    def _project(self, x: Tensor, name: str) -> list[Tensor]:
        return linear(x, [self.weights[Role(f"{name}.weight")]], self.arithmetic)

    def _embed(self) -> Tensor:
        table = self.weights[Role("embedding")]
        if self.arithmetic in ("float64", "float32"):
            return table
        if self.arithmetic in ("int8", "int4"):
            return torch.from_numpy(int8_weights(table.numpy()))
        table = table.bfloat16().float()
        is_integers = self.arithmetic == "int16_block" and self.spec.tied_head
        return int16_weights(table) if is_integers else table

    def _layer(self, x: Tensor, layer: LayerSpec, index: int) -> Tensor:
        if layer.post_norm_of == "sum":
            return self._post_norm_layer(x, layer, index)
        factor = layer.residual_multiplier
        normed = self._norm(x, layer.attention_norm, "attention_norm", index)
        if isinstance(layer.mixer, AttentionSpec):
            mixed = self._attention(normed, layer.mixer, index)
        else:
            mixed = self._short_conv(normed, layer.mixer, index)
        mixed = factor * self._norm(mixed, layer.attention_post_norm, "attention_post_norm", index)
        if layer.parallel:
            if layer.mlp_norm is not None:
                normed = self._norm(x, layer.mlp_norm, "mlp_norm", index)
        else:
            x, mixed = x + mixed, torch.zeros_like(x)
            normed = self._norm(x, layer.mlp_norm, "mlp_norm", index)
        inside = self._mlps(normed, layer.mlp, index)
        return x + mixed + factor * self._norm(inside, layer.mlp_post_norm, "mlp_post_norm", index)

    def _post_norm_layer(self, x: Tensor, layer: LayerSpec, index: int) -> Tensor:
        assert not layer.parallel
        branch = self._norm(x, layer.attention_norm, "attention_norm", index)
        branch = layer.residual_multiplier * self._attention(branch, layer.attention, index)
        x = self._norm(x + branch, layer.attention_post_norm, "attention_post_norm", index)
        branch = self._norm(x, layer.mlp_norm, "mlp_norm", index)
        branch = layer.residual_multiplier * self._mlps(branch, layer.mlp, index)
        return self._norm(x + branch, layer.mlp_post_norm, "mlp_post_norm", index)

    def _attention(self, x: Tensor, spec: AttentionSpec, index: int) -> Tensor:
        parts = self._linear(x, index, "q", "k", "v")
        limit = torch.inf if spec.clip_qkv is None else spec.clip_qkv
        if spec.clip_after_norm:
            parts[2] = parts[2].clamp(-limit, limit)
        else:
            parts = [part.clamp(-limit, limit) for part in parts]
        q, k, v = (part.view(len(x), -1, spec.head_dim) for part in parts)
        after = spec.qk_norm is not None and spec.qk_norm.after_rotary
        if spec.rotary and after:
            q, k = rotate(q, spec.rotary), rotate(k, spec.rotary)
        if spec.qk_norm:
            q = self._qk_norm(q, spec.qk_norm, "q_norm", index)
            k = self._qk_norm(k, spec.qk_norm, "k_norm", index)
        if spec.clip_after_norm:
            q, k = q.clamp(-limit, limit), k.clamp(-limit, limit)
        if spec.rotary and not after:
            q, k = rotate(q, spec.rotary), rotate(k, spec.rotary)
        (y,) = self._linear(attend(spec, q, self._cached(k), self._cached(v)), index, "output")
        return y

    def _qk_norm(self, x: Tensor, spec: QKNormSpec, name: str, index: int) -> Tensor:
        """x [T, H, d] normed over d, or over H and d together."""
        if spec.over == "all":
            return self._norm(x.flatten(1), spec.norm, name, index).view_as(x)
        if not spec.weight_per_head:
            return self._norm(x, spec.norm, name, index)
        normed = self._norm(x, spec.norm, name, index, heads=x.shape[1])
        return normed.view_as(x)

    def _short_conv(self, u: Tensor, spec: ShortConvSpec, index: int) -> Tensor:
        (both,) = self._linear(u, index, "conv_in")
        b, c, x = both.chunk(3, -1)
        values = F.pad((b * x).T, (spec.kernel_size - 1, 0))  # [hidden, T + k - 1]
        taps = self.weights[Role("conv.weight", index)]
        y = F.conv1d(values, taps[:, None], self.weights.get(Role("conv.bias", index)),
                     groups=len(taps)).T  # fmt: skip
        (out,) = self._linear(c * y, index, "conv_out")
        return out

    def _mlps(self, x: Tensor, spec: MlpSpec, index: int) -> Tensor:
        """The one MLP, or every expert for all tokens, of which most count nothing."""
        if spec.experts is None:
            return self._mlp(x, spec, index)
        y = torch.zeros_like(x)
        weights = self._expert_weights(x, spec.experts, index)  # [T, experts]
        for expert in range(spec.experts.num_experts):
            part = self._mlp(x, spec, index, f"experts.{expert}.")
            y = y + weights[:, expert, None] * part
        if spec.experts.shared_intermediate_size is None:
            return y
        shared = self._mlp(x, spec, index, "shared.")
        if spec.experts.shared_gate:
            shared = shared * torch.sigmoid(x @ self.weights[Role("shared_gate.weight", index)].T)
        return y + shared

    def _expert_weights(self, x: Tensor, spec: ExpertsSpec, index: int) -> Tensor:
        """[T, experts], zero where not picked. An expert is picked where fewer than so many others
        come before it: by a larger logit, or by an equal one and a lower number."""
        logits = x @ self.weights[Role("router.weight", index)].T  # not rounded in any format
        mine, others = logits[:, :, None], logits[:, None, :]
        is_lower = torch.ones(spec.num_experts, spec.num_experts).tril(-1).bool()
        is_before = (others > mine) | ((others == mine) & is_lower)
        weights = logits.softmax(-1) * (is_before.sum(-1) < spec.num_experts_per_token)
        return weights / weights.sum(-1, keepdim=True) if spec.normalized else weights

    def _mlp(self, x: Tensor, spec: MlpSpec, index: int, prefix: str = "") -> Tensor:
        act = ACTIVATIONS[spec.activation]
        if spec.gated:
            gate, up = self._linear(x, index, f"{prefix}gate", f"{prefix}up")
            y = act(gate) * up
        else:
            (up,) = self._linear(x, index, f"{prefix}up")
            y = act(up)
        (down,) = self._linear(y, index, f"{prefix}down")
        return down

    def _linear(self, x: Tensor, layer: int, *names: str) -> list[Tensor]:
        weights = [self.weights[Role(f"{name}.weight", layer)] for name in names]
        biases = [self.weights.get(Role(f"{name}.bias", layer)) for name in names]
        parts = linear(x, weights, self.arithmetic)
        return [y if b is None else y + b for y, b in zip(parts, biases, strict=True)]

    def _norm(
        self, x: Tensor, spec: NormSpec | None, name: str, layer: int | None = None, heads: int = 0
    ) -> Tensor:
        """`heads`: the weights are those of so many heads, x is [T, heads, d]."""
        if spec is None:
            return x
        if spec.kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + spec.eps)
        shape = (heads, -1) if heads else (-1,)
        if spec.has_weight:
            weight = self.weights[Role(f"{name}.weight", layer)].view(shape)
            y = y * (spec.weight_offset + weight)
        return y + self.weights[Role(f"{name}.bias", layer)].view(shape) if spec.bias else y

    def _cached(self, x: Tensor) -> Tensor:
        """What the KV cache keeps of keys and values."""
        return x if self.arithmetic in ("float64", "float32") else x.bfloat16().float()


@cache
def wanted_logits(
    spec: DecoderSpec,
    num_tokens: int,
    *,
    seed: int = 0,
    token_seed: int = 0,
    rounded: bool = False,
    arithmetic: Arithmetic = "float64",
    network: type[Reference] = Reference,
) -> NDArray[Any]:
    """Logits of `random_tokens` under `make_weights`, computed once for all kernel sets.
    `rounded`: the weights are those of `bf16_weights`."""
    weights = make_weights(spec, seed)
    reference = network(spec, bf16_weights(weights) if rounded else weights, arithmetic)
    logits = reference.forward(random_tokens(spec, num_tokens, token_seed))
    logits.setflags(write=False)
    return logits
