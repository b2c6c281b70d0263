"""Builders for kernel tests: specs, random weights, a float64 network, a driver with a KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.native import BLOCK_SIZE, NativeModel, to_float32
from shoal.kernels.spec import ModelSpec

Weights = dict[str, NDArray[Any]]

LLAMA = ModelSpec(
    architecture="llama",
    vocab_size=1100,
    hidden_size=96,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_size=16,
    mlp_size=136,
    max_positions=512,
    norm_eps=1e-5,
    tied_embeddings=False,
    inv_freq=tuple((10000.0 ** (-np.arange(0, 16, 2) / 16)).astype(np.float32).tolist()),
)
GPT2 = ModelSpec(
    architecture="gpt2",
    vocab_size=530,
    hidden_size=60,
    num_layers=2,
    num_heads=3,
    num_kv_heads=3,
    head_size=20,
    mlp_size=131,
    max_positions=256,
    norm_eps=1e-5,
    tied_embeddings=True,
    activation="gelu_tanh",
)


def rotary(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """`spec` with changes, and frequencies for its head size."""
    spec = replace(spec, **changes)
    size = spec.head_size
    freq = (10000.0 ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    return replace(spec, inv_freq=tuple(freq.tolist()))


SPECS = {
    "llama": LLAMA,
    "llama_tied_biases": replace(
        LLAMA, tied_embeddings=True, qkv_bias=True, output_bias=True, mlp_bias=True
    ),
    "llama_odd": rotary(
        LLAMA,
        vocab_size=517,
        hidden_size=67,
        num_heads=3,
        num_kv_heads=1,
        head_size=22,
        mlp_size=83,
    ),
    "llama_head64": rotary(LLAMA, num_heads=4, num_kv_heads=4, head_size=64),
    "llama_window_cap": replace(LLAMA, sliding_window=21, attention_soft_cap=2.0),
    "llama_query_key_norm": replace(LLAMA, query_key_norm=True, rope_attention_scale=1.2),
    "gpt2": GPT2,
    "gpt2_untied_erf": replace(GPT2, tied_embeddings=False, activation="gelu"),
}


def make_weights(spec: ModelSpec, seed: int = 0) -> Weights:
    """Random float32 weights under their Hugging Face names."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float | None = None) -> NDArray[np.float32]:
        scale = shape[-1] ** -0.5 if scale is None else scale
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def near_one(size: int) -> NDArray[np.float32]:
        return 1 + normal(size, scale=0.2)

    d, m, w = spec.hidden_size, spec.mlp_size, {}
    if spec.architecture == "gpt2":
        w["transformer.wte.weight"] = normal(spec.vocab_size, d, scale=0.5)
        w["transformer.wpe.weight"] = normal(spec.max_positions, d, scale=0.3)
        norms, linears = ["ln_1", "ln_2"], {}
        for i in range(spec.num_layers):
            at = f"transformer.h.{i}."
            linears |= {at + "attn.c_attn": (d, 3 * d), at + "attn.c_proj": (d, d)}
            linears |= {at + "mlp.c_fc": (d, m), at + "mlp.c_proj": (m, d)}
            for n in norms:
                w[f"{at}{n}.weight"], w[f"{at}{n}.bias"] = near_one(d), normal(d, scale=0.1)
        w["transformer.ln_f.weight"], w["transformer.ln_f.bias"] = near_one(d), normal(d, scale=0.1)
        for name, (inputs, outputs) in linears.items():
            w[name + ".weight"] = normal(inputs, outputs, scale=inputs**-0.5)
            w[name + ".bias"] = normal(outputs, scale=0.2)
    else:
        w["model.embed_tokens.weight"] = normal(spec.vocab_size, d, scale=0.5)
        w["model.norm.weight"] = near_one(d)
        for i in range(spec.num_layers):
            at = f"model.layers.{i}."
            shapes = {
                "self_attn.q_proj": (spec.query_size, d, spec.qkv_bias),
                "self_attn.k_proj": (spec.kv_size, d, spec.qkv_bias),
                "self_attn.v_proj": (spec.kv_size, d, spec.qkv_bias),
                "self_attn.o_proj": (d, spec.query_size, spec.output_bias),
                "mlp.gate_proj": (m, d, spec.mlp_bias),
                "mlp.up_proj": (m, d, spec.mlp_bias),
                "mlp.down_proj": (d, m, spec.mlp_bias),
            }
            for name, (outputs, inputs, bias) in shapes.items():
                w[f"{at}{name}.weight"] = normal(outputs, inputs)
                if bias:
                    w[f"{at}{name}.bias"] = normal(outputs, scale=0.2)
            w[at + "input_layernorm.weight"] = near_one(d)
            w[at + "post_attention_layernorm.weight"] = near_one(d)
            if spec.query_key_norm:
                w[at + "self_attn.q_norm.weight"] = near_one(spec.head_size)
                w[at + "self_attn.k_norm.weight"] = near_one(spec.head_size)
    if not spec.tied_embeddings:
        w["lm_head.weight"] = normal(spec.vocab_size, d)
    return w


def to_bf16_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_weights(weights: Weights) -> Weights:
    """Matrices as bf16 bits, vectors as they are."""
    return {k: to_bf16_bits(v) if v.ndim == 2 else v for k, v in weights.items()}


def double_forward(spec: ModelSpec, weights: Weights, token_ids: Sequence[int]) -> NDArray[Any]:
    """Logits [T, vocab] of one sequence in float64, written for reading, not for speed."""
    w = {name: to_float32(value).astype(np.float64) for name, value in weights.items()}
    block = _gpt2_block if spec.architecture == "gpt2" else _llama_block
    prefix = "transformer.wte" if spec.architecture == "gpt2" else "model.embed_tokens"
    table = w[prefix + ".weight"]
    x = table[list(token_ids)]  # [T, D]
    if spec.architecture == "gpt2":
        x = x + w["transformer.wpe.weight"][: len(x)]
    for layer in range(spec.num_layers):
        x = block(spec, w, x, layer)
    last = "transformer.ln_f" if spec.architecture == "gpt2" else "model.norm"
    head = table if spec.tied_embeddings else w["lm_head.weight"]
    return _norm(spec, w, x, last) @ head.T


def _norm(spec: ModelSpec, w: Weights, x: NDArray[Any], name: str) -> NDArray[Any]:
    if spec.architecture == "gpt2":
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + spec.norm_eps) * w[name + ".weight"]
    return y + w[name + ".bias"] if spec.architecture == "gpt2" else y


def _activation(spec: ModelSpec, x: NDArray[Any]) -> NDArray[Any]:
    if spec.activation == "silu":
        return x / (1 + np.exp(-x))
    if spec.activation == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def _attention(spec: ModelSpec, q: Any, k: Any, v: Any) -> NDArray[Any]:
    tokens, group = len(q), spec.num_heads // spec.num_kv_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)  # [T, H, d]
    scores = np.einsum("qhd,khd->hqk", q, k) * spec.head_size**-0.5
    if spec.attention_soft_cap:
        scores = spec.attention_soft_cap * np.tanh(scores / spec.attention_soft_cap)
    behind = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    seen = (behind >= 0) & (behind < (spec.sliding_window or tokens))
    scores = np.where(seen, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", p, v).reshape(tokens, -1)


def _llama_block(spec: ModelSpec, w: Weights, x: NDArray[Any], layer: int) -> NDArray[Any]:
    at = f"model.layers.{layer}."

    def linear(y: NDArray[Any], name: str) -> NDArray[Any]:
        return y @ w[f"{at}{name}.weight"].T + w.get(f"{at}{name}.bias", 0)

    def heads(y: NDArray[Any], norm: str | None) -> NDArray[Any]:
        y = y.reshape(len(x), -1, spec.head_size)
        if norm is None:
            return y
        if spec.query_key_norm:
            y = y / np.sqrt((y * y).mean(-1, keepdims=True) + spec.norm_eps)
            y = y * w[f"{at}self_attn.{norm}.weight"]
        freq = np.array(spec.inv_freq, np.float32)
        angle = np.arange(len(x), dtype=np.float32)[:, None] * freq  # float32, as Hugging Face
        cos, sin = (f(angle.astype(np.float64))[:, None] for f in (np.cos, np.sin))
        a, b = np.split(y, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1) * (
            spec.rope_attention_scale
        )

    y = _norm(spec, w, x, at + "input_layernorm")
    q, k = (heads(linear(y, f"self_attn.{n}_proj"), f"{n}_norm") for n in "qk")
    v = heads(linear(y, "self_attn.v_proj"), None)
    x = x + linear(_attention(spec, q, k, v), "self_attn.o_proj")
    y = _norm(spec, w, x, at + "post_attention_layernorm")
    gate = _activation(spec, linear(y, "mlp.gate_proj"))
    return x + linear(gate * linear(y, "mlp.up_proj"), "mlp.down_proj")


def _gpt2_block(spec: ModelSpec, w: Weights, x: NDArray[Any], layer: int) -> NDArray[Any]:
    at = f"transformer.h.{layer}."

    def linear(y: NDArray[Any], name: str) -> NDArray[Any]:
        return y @ w[f"{at}{name}.weight"] + w[f"{at}{name}.bias"]

    y = linear(_norm(spec, w, x, at + "ln_1"), "attn.c_attn")
    q, k, v = (part.reshape(len(x), -1, spec.head_size) for part in np.split(y, 3, axis=-1))
    x = x + linear(_attention(spec, q, k, v), "attn.c_proj")
    y = _activation(spec, linear(_norm(spec, w, x, at + "ln_2"), "mlp.c_fc"))
    return x + linear(y, "mlp.c_proj")


def make_model(spec: ModelSpec, weights: Weights, **settings: Any) -> NativeModel:
    """A small one; settings override."""
    settings = {
        "dtype": "float32", "num_blocks": 256, "max_tokens": 2048, "num_threads": 1,
    } | settings  # fmt: skip
    return NativeModel(spec, weights, **settings)


@dataclass
class Driver:
    """Runs sequences through a model: keeps their blocks, takes any chunks, returns all logits."""

    model: NativeModel
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    tables: dict[int, list[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.free = self.rng.permutation(self.model.num_blocks).tolist()

    def arrays(self, rows: Sequence[tuple[int, Sequence[int]]]) -> tuple[NDArray[np.int32], ...]:
        """Step inputs for (sequence, new token ids) pairs, logits wanted for every token."""
        ids, positions, slots, starts, contexts, tables = [], [], [], [0], [], []
        for seq, new in rows:
            table = self.tables.setdefault(seq, [])
            start = self.lengths.get(seq, 0)
            end = start + len(new)
            while len(table) * BLOCK_SIZE < end:
                table.append(self.free.pop())
            ids += list(new)
            positions += range(start, end)
            slots += [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                      for p in range(start, end)]  # fmt: skip
            starts.append(len(ids))
            contexts.append(end)
            tables.append(table)
            self.lengths[seq] = end
        width = max(map(len, tables))
        padded = [table + [0] * (width - len(table)) for table in tables]
        values = (ids, positions, slots, starts, contexts, padded, range(len(ids)))
        return tuple(np.array(value, np.int32) for value in values)

    def step(self, rows: Sequence[tuple[int, Sequence[int]]]) -> NDArray[np.float32]:
        """Logits [all new tokens, vocab]."""
        return self.model.forward(*self.arrays(rows), None)


def logits_of(model: NativeModel, token_ids: Sequence[int], chunk: int = 10**6) -> NDArray[Any]:
    """Logits [T, vocab] of one sequence alone, `chunk` tokens a step."""
    driver = Driver(model)
    parts = [token_ids[i : i + chunk] for i in range(0, len(token_ids), chunk)]
    return np.concatenate([driver.step([(0, part)]) for part in parts])


def random_tokens(spec: ModelSpec, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, spec.vocab_size, count).tolist()
