"""The native kernels once more in plain PyTorch, for one sequence without a cache.

Written to be read and compared with: the only file of this folder that imports torch, and nothing
imports it but tests. The networks that serve requests on PyTorch are in `model/`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shoal.kernels.native import to_float32
from shoal.kernels.spec import Dtype, ModelSpec

Arithmetic = Dtype | Literal["fixed16"]
"""fixed16: bfloat16 weights multiplied as 16-bit integers, as some kernel sets do."""
_FIXED_BLOCK, _FIXED_MAX = 32, 8191


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 per row: integers within +-127 (as floats) and scales [..., 1]."""
    largest = x.abs().amax(-1, keepdim=True)
    return torch.round(x * (127 / largest.clamp_min(1e-30))), largest / 127


def fixed16_weights(weight: Tensor) -> Tensor:
    """Each output [N, K] as integers of 13 bits and a sign at one power of two. A matrix with an
    output that would lose more than 2^-11 of itself stays what it is."""
    _, exponent = torch.frexp(weight.abs().amax(-1, keepdim=True))
    unit = torch.exp2((exponent - 13).to(weight.dtype))
    found = torch.round(weight / unit) * unit
    lost = (found - weight).square().sum(-1) > weight.square().sum(-1) * 2**-22
    return weight if bool(lost.any()) else found


def fixed16_rows(x: Tensor) -> Tensor:
    """Each 32 inputs of a row [T, K] as integers within +-8191 of a common scale."""
    padded = F.pad(x, (0, -x.shape[-1] % _FIXED_BLOCK))
    blocks = padded.reshape(len(x), -1, _FIXED_BLOCK)
    largest = blocks.abs().amax(-1, keepdim=True)
    integers = torch.round(blocks * (_FIXED_MAX / largest.clamp_min(1e-30)))
    return (integers * (largest / _FIXED_MAX)).reshape(len(x), -1)[:, : x.shape[-1]]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: Arithmetic) -> Tensor:
    """x [T, K] times weight [N, K]; for int8 both are quantised per row and sums are exact."""
    if dtype == "fixed16":
        weight = fixed16_weights(weight.bfloat16().to(x.dtype))
        y = (fixed16_rows(x).double() @ weight.double().T).to(x.dtype)
        return y if bias is None else y + bias
    if dtype == "bfloat16":
        weight = weight.bfloat16().to(x.dtype)
    if dtype == "int8":
        (x, x_scale), (weight, scale) = quantize_rows(x), quantize_rows(weight)
        y = (x.double() @ weight.double().T).to(x.dtype) * x_scale * scale.T
    else:
        y = x @ weight.T
    return y if bias is None else y + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Zhang and Sennrich 2019."""
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def rotate(x: Tensor, inv_freq: Sequence[float], scale: float) -> Tensor:
    """Rotary positions 0.. of x [T, H, d]: channel i turns with i + d/2 (Su et al. 2021)."""
    angle = torch.outer(torch.arange(len(x), dtype=torch.float32), torch.tensor(inv_freq))
    cos, sin = (f(angle.double()).to(x.dtype)[:, None] * scale for f in (torch.cos, torch.sin))
    half = len(inv_freq)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


def attention(spec: ModelSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [T, H, d], k and v [T, KV, d] -> [T, H * d]; causal, grouped heads, window, soft cap."""
    group = spec.num_heads // spec.num_kv_heads
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * spec.head_size**-0.5
    if cap := spec.attention_soft_cap:
        scores = cap * torch.tanh(scores / cap)
    position = torch.arange(len(q))
    behind = position[:, None] - position  # [query, key]
    seen = (behind >= 0) & (behind < (spec.sliding_window or len(q)))
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


def activation(spec: ModelSpec, x: Tensor) -> Tensor:
    """The MLP's nonlinearity."""
    if spec.activation == "silu":
        return F.silu(x)
    if spec.activation == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if spec.activation == "gelu_tanh" else "none")


class ReferenceModel:
    """One sequence through the whole network; the same dtypes as NativeModel, and fixed16."""

    def __init__(
        self, spec: ModelSpec, weights: Mapping[str, NDArray[Any]], dtype: Arithmetic = "float32"
    ) -> None:
        self.spec = spec
        self.dtype: Arithmetic = dtype
        self.weights = {k: torch.from_numpy(to_float32(v).copy()) for k, v in weights.items()}

    def forward(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [T, vocab]."""
        gpt2 = self.spec.architecture == "gpt2"
        embedding = "transformer.wte" if gpt2 else "model.embed_tokens"
        head = embedding if self.spec.tied_embeddings else "lm_head"
        x = self._embed(embedding, head)[list(token_ids)]  # [T, D]
        if gpt2:
            x = x + self.weights["transformer.wpe.weight"][: len(x)]
        for layer in range(self.spec.num_layers):
            x = self._gpt2_layer(x, layer) if gpt2 else self._llama_layer(x, layer)
        x = self._norm(x, "transformer.ln_f" if gpt2 else "model.norm")
        logits: NDArray[np.float32] = self._linear(x, head).numpy()
        return logits

    def _embed(self, name: str, head: str) -> Tensor:
        table = self.weights[name + ".weight"]
        if self.dtype == "int8" and head == name:  # one table serves both, so both are int8
            integers, scale = quantize_rows(table)
            return integers * scale
        if self.dtype == "fixed16" and head == name:
            return fixed16_weights(table.bfloat16().float())
        return table if self.dtype == "float32" else table.bfloat16().float()

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight = self.weights[name + ".weight"]
        if self.spec.architecture == "gpt2" and ".h." in name:  # Conv1D: [inputs, outputs]
            weight = weight.T
        return linear(x, weight, self.weights.get(name + ".bias"), self.dtype)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, eps = self.weights[name + ".weight"], self.spec.norm_eps
        if self.spec.architecture == "gpt2":
            return F.layer_norm(x, weight.shape, weight, self.weights[name + ".bias"], eps)
        return rms_norm(x, weight, eps)

    def _cached(self, x: Tensor) -> Tensor:
        """What the KV cache keeps of keys and values."""
        return x if self.dtype == "float32" else x.bfloat16().float()

    def _llama_layer(self, x: Tensor, layer: int) -> Tensor:
        spec, at = self.spec, f"model.layers.{layer}."
        y = self._norm(x, at + "input_layernorm")
        q, k, v = (
            self._linear(y, f"{at}self_attn.{n}_proj").view(len(x), -1, spec.head_size)
            for n in "qkv"
        )
        if spec.query_key_norm:
            q = self._norm(q, at + "self_attn.q_norm")
            k = self._norm(k, at + "self_attn.k_norm")
        q, k = (rotate(t, spec.inv_freq, spec.rope_attention_scale) for t in (q, k))
        y = attention(spec, q, self._cached(k), self._cached(v))
        x = x + self._linear(y, at + "self_attn.o_proj")
        y = self._norm(x, at + "post_attention_layernorm")
        gate = activation(spec, self._linear(y, at + "mlp.gate_proj"))
        return x + self._linear(gate * self._linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")

    def _gpt2_layer(self, x: Tensor, layer: int) -> Tensor:
        spec, at = self.spec, f"transformer.h.{layer}."
        y = self._linear(self._norm(x, at + "ln_1"), at + "attn.c_attn")
        q, k, v = (part.reshape(len(x), -1, spec.head_size) for part in y.chunk(3, 1))
        y = attention(spec, q, self._cached(k), self._cached(v))
        x = x + self._linear(y, at + "attn.c_proj")
        y = activation(spec, self._linear(self._norm(x, at + "ln_2"), at + "mlp.c_fc"))
        return x + self._linear(y, at + "mlp.c_proj")
