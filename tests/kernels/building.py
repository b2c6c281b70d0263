"""Builders for kernel tests: specs that use every feature, random weights by role."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.native import NativeModel
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
    expected_weights,
)

Weights = dict[Role, NDArray[Any]]

RMS = NormSpec("rms", 1e-5)
LAYER_NORM = NormSpec("layer", 1e-5, bias=True)
GEMMA_RMS = NormSpec("rms", 1e-6, weight_offset=1.0)


def rotary(channels: int, base: float = 10_000.0, magnitude: float = 1.0) -> RotarySpec:
    """Turns the first `channels` of a head."""
    freq = base ** (-np.arange(0, channels, 2) / channels)
    return RotarySpec(tuple(freq.astype(np.float32).tolist()), magnitude)


def attention(heads: int, kv_heads: int, head_dim: int, **changes: Any) -> AttentionSpec:
    """Plain, all channels turn."""
    spec = AttentionSpec(heads, kv_heads, head_dim, head_dim**-0.5, rotary=rotary(head_dim))
    return replace(spec, **changes)


def llama(
    attention_spec: AttentionSpec | None = None,
    *,
    mlp: MlpSpec | None = None,
    num_layers: int = 2,
    **changes: Any,
) -> DecoderSpec:
    """A small Llama with changes."""
    layer = LayerSpec(attention_spec or attention(6, 2, 16), mlp or MlpSpec(136), RMS, RMS)
    spec = DecoderSpec(
        vocab_size=1100,
        hidden_size=96,
        max_position_embeddings=512,
        layers=(layer,) * num_layers,
        final_norm=RMS,
        tied_head=False,
    )
    return replace(spec, **changes)


def gpt2(activation: Any = "gelu_tanh", **changes: Any) -> DecoderSpec:
    """A small GPT-2 with changes."""
    layer = LayerSpec(
        attention(3, 3, 20, rotary=None, qkv_bias=True, output_bias=True),
        MlpSpec(131, activation, gated=False, bias=True),
        LAYER_NORM,
        LAYER_NORM,
    )
    spec = DecoderSpec(
        vocab_size=530,
        hidden_size=60,
        max_position_embeddings=256,
        layers=(layer, layer),
        final_norm=LAYER_NORM,
        tied_head=True,
        learned_positions=True,
    )
    return replace(spec, **changes)


def parallel(
    attention_spec: AttentionSpec | ShortConvSpec, mlp: MlpSpec, **norms: Any
) -> LayerSpec:
    """A layer whose MLP reads the same residual as attention."""
    norms = {"attention_norm": LAYER_NORM, "mlp_norm": None} | norms
    return LayerSpec(attention_spec, mlp, parallel=True, **norms)


def phi() -> DecoderSpec:
    """One layer norm for both branches, part of each head turns, biases everywhere."""
    layer = parallel(
        attention(
            4, 4, 20, rotary=rotary(8), qkv_bias=True, output_bias=True,
            qk_norm=QKNormSpec(LAYER_NORM),
        ),
        MlpSpec(150, "gelu_tanh", gated=False, bias=True),
    )  # fmt: skip
    return llama(hidden_size=80, layers=(layer,) * 3, final_norm=LAYER_NORM, head_bias=True)


def neox() -> DecoderSpec:
    """Two norms, one for each parallel branch."""
    layer = parallel(
        attention(4, 4, 16, rotary=rotary(4), qkv_bias=True, output_bias=True),
        MlpSpec(96, "gelu", gated=False, bias=True),
        mlp_norm=LAYER_NORM,
    )
    return llama(hidden_size=64, layers=(layer,) * 2, final_norm=LAYER_NORM)


def gemma() -> DecoderSpec:
    """Norms around each branch, soft caps; layers with a window have their own rotary base."""
    window = attention(
        4, 2, 24, scale=0.3, rotary=rotary(24, 100.0), qk_norm=QKNormSpec(GEMMA_RMS), window=19,
        soft_cap=4.0,
    )  # fmt: skip
    whole = replace(window, rotary=rotary(24, 10_000.0), window=None)
    layers = [
        LayerSpec(a, MlpSpec(112, "gelu_tanh"), GEMMA_RMS, GEMMA_RMS, GEMMA_RMS, GEMMA_RMS)
        for a in (window, whole, window)
    ]
    return llama(
        hidden_size=72,
        layers=tuple(layers),
        final_norm=GEMMA_RMS,
        tied_head=True,
        embedding_multiplier=72**0.5,
        logit_soft_cap=5.0,
    )


def mixed_shapes() -> DecoderSpec:
    """No two layers alike in anything; sizes that no vector width divides."""
    bare = NormSpec("layer", 1e-5)
    with_bias = NormSpec("rms", 1e-5, bias=True)
    layers = (
        LayerSpec(
            attention(6, 2, 15, rotary=rotary(14), qkv_bias=True, qk_norm=QKNormSpec(with_bias)),
            MlpSpec(45, "relu", gated=False),
            bare, with_bias,
        ),
        LayerSpec(
            attention(3, 3, 22, rotary=None, output_bias=True, window=7),
            MlpSpec(83, "silu", bias=True),
            None, None, RMS, bare,
        ),
        parallel(
            attention(8, 1, 10, rotary=rotary(6), soft_cap=3.0, scale=0.4),
            MlpSpec(130, "gelu"),
            attention_norm=bare, mlp_norm=RMS, mlp_post_norm=with_bias,
        ),
        parallel(attention(2, 1, 33, rotary=rotary(32, 500.0, 1.3)), MlpSpec(31, "gelu_tanh")),
    )  # fmt: skip
    return llama(
        vocab_size=517, hidden_size=67, layers=layers, final_norm=with_bias, head_bias=True,
        learned_positions=True,
    )  # fmt: skip


def bloom() -> DecoderSpec:
    """ALiBi instead of positions, a norm of the embedding."""
    layer = LayerSpec(
        attention(
            6, 6, 16, rotary=None, qkv_bias=True, output_bias=True,
            alibi_slopes=(0.5, 0.25, 0.125, 0.0625, 0.7, 0.35),
        ),
        MlpSpec(140, "gelu_tanh", gated=False, bias=True), LAYER_NORM, LAYER_NORM,
    )  # fmt: skip
    return llama(
        layers=(layer,) * 2, final_norm=LAYER_NORM, embedding_norm=LAYER_NORM, tied_head=True
    )


def opt() -> DecoderSpec:
    """Norms of the sum, none at the end; an embedding narrower than the network."""
    layer = LayerSpec(
        attention(3, 3, 20, rotary=None, qkv_bias=True, output_bias=True),
        MlpSpec(131, "relu", gated=False, bias=True), None, None, LAYER_NORM, LAYER_NORM,
        post_norm_of="sum",
    )  # fmt: skip
    return gpt2(layers=(layer,) * 2, final_norm=None, embedding_size=37)


def olmo() -> DecoderSpec:
    """Norms without weights; queries, keys and values within limits."""
    bare = NormSpec("layer", 1e-5, has_weight=False)
    layer = LayerSpec(attention(6, 2, 16, clip_qkv=1.2), MlpSpec(136), bare, bare)
    return llama(layers=(layer,) * 2, final_norm=bare)


def olmo2() -> DecoderSpec:
    """Norms behind the branches alone; queries and keys are normed over all heads."""
    layer = LayerSpec(
        attention(6, 2, 15, rotary=rotary(14), qk_norm=QKNormSpec(RMS, over="all")),
        MlpSpec(136), None, None, RMS, RMS,
    )  # fmt: skip
    return llama(layers=(layer,) * 2)


def cohere() -> DecoderSpec:
    """Parallel; neighbouring channels turn together; each head has a norm of its own."""
    bare = NormSpec("layer", 1e-5)
    layer = parallel(
        attention(
            6, 2, 16, rotary=replace(rotary(16), interleaved=True),
            qk_norm=QKNormSpec(bare, weight_per_head=True),
        ),
        MlpSpec(136), attention_norm=bare,
    )  # fmt: skip
    return llama(layers=(layer,) * 2, final_norm=bare, tied_head=True, logit_multiplier=0.3)


def granite() -> DecoderSpec:
    """Four multipliers."""
    layer = replace(llama().layers[0], residual_multiplier=0.22)
    return llama(
        attention(6, 2, 16, scale=0.1), layers=(layer,) * 2, embedding_multiplier=12.0,
        logit_multiplier=0.125,
    )  # fmt: skip


def nanochat() -> DecoderSpec:
    """Queries and keys are normed after they turned; relu squared."""
    bare = NormSpec("rms", 1e-5, has_weight=False)
    layer = LayerSpec(
        attention(6, 2, 16, qk_norm=QKNormSpec(bare, after_rotary=True)),
        MlpSpec(136, "relu2", gated=False), bare, bare,
    )  # fmt: skip
    return llama(layers=(layer,) * 2, final_norm=bare, embedding_norm=bare, logit_soft_cap=5.0)


def lfm2() -> DecoderSpec:
    """Layers that attend between convolutions."""
    qk_norm = QKNormSpec(RMS)
    mixers = ShortConvSpec(3), attention(6, 2, 16, qk_norm=qk_norm), ShortConvSpec(3)
    return llama(layers=tuple(LayerSpec(mixer, MlpSpec(136), RMS, RMS) for mixer in mixers))


def mixed_convs() -> DecoderSpec:
    """A kernel longer than a block, biases, a norm behind, a parallel layer; an odd size."""
    mlp = MlpSpec(83)
    layers = (
        LayerSpec(ShortConvSpec(4, bias=True), mlp, RMS, RMS, RMS, RMS),
        LayerSpec(attention(3, 1, 20), mlp, RMS, RMS),
        parallel(ShortConvSpec(21), mlp),
    )
    return llama(vocab_size=517, hidden_size=147, layers=layers)


def moe(first: ExpertsSpec, last: ExpertsSpec) -> DecoderSpec:
    """A dense layer between two with experts."""
    layer = llama().layers[0]
    layers = (
        replace(layer, mlp=MlpSpec(40, experts=first)),
        layer,
        replace(layer, mlp=MlpSpec(48, experts=last)),
    )
    return llama(layers=layers)


def moe_of_all() -> DecoderSpec:
    """Tokens meet every expert. Which ones they meet is nothing that rounded numbers agree on: see
    test_experts.py."""
    shared = ExpertsSpec(3, 3, normalized=False, shared_intermediate_size=70, shared_gate=True)
    return moe(shared, ExpertsSpec(4, 4, normalized=False))


SPECS = {
    "llama": llama(),
    "llama_tied_biases": llama(
        attention(6, 2, 16, qkv_bias=True, output_bias=True),
        mlp=MlpSpec(136, bias=True),
        tied_head=True,
    ),
    "llama_odd": llama(attention(3, 1, 22), mlp=MlpSpec(83), vocab_size=517, hidden_size=67),
    "llama_head64": llama(attention(4, 4, 64)),
    "llama_window_cap": llama(attention(6, 2, 16, window=21, soft_cap=2.0)),
    "qwen3": llama(attention(6, 2, 16, qk_norm=QKNormSpec(RMS), rotary=rotary(16, magnitude=1.2))),
    "gpt2": gpt2(),
    "gpt2_untied_erf": gpt2("gelu", tied_head=False),
    "phi": phi(),
    "neox": neox(),
    "gemma": gemma(),
    "mixed_shapes": mixed_shapes(),
    "bloom": bloom(),
    "opt": opt(),
    "olmo": olmo(),
    "olmo2": olmo2(),
    "cohere": cohere(),
    "granite": granite(),
    "nanochat": nanochat(),
    "lfm2": lfm2(),
    "mixed_convs": mixed_convs(),
    "moe": moe_of_all(),
}


def make_weights(spec: DecoderSpec, seed: int = 0) -> Weights:
    """Random float32 weights of which every one counts."""
    rng = np.random.default_rng(seed)
    return {role: _make(rng, spec, role, shape) for role, shape in expected_weights(spec).items()}


def _make(
    rng: np.random.Generator, spec: DecoderSpec, role: Role, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    name, kind = role.name.partition(".")[0], role.name.rpartition(".")[2]
    x = rng.standard_normal(shape)
    if name.endswith("embedding"):
        x *= 0.5 / spec.embedding_multiplier if name == "embedding" else 0.3
        if spec.tied_head and spec.embedding_multiplier != 1:
            x *= spec.embedding_multiplier * (spec.embedding_size or spec.hidden_size) ** -0.5
    elif kind == "bias":
        x *= 0.2
    elif name.endswith("norm"):
        x = x * 0.2 + (1 - _weight_offset(spec, role))
    else:
        x *= shape[-1] ** -0.5
    return x.astype(np.float32)


def _weight_offset(spec: DecoderSpec, role: Role) -> float:
    name = role.name.partition(".")[0]
    if role.layer is None:
        return float(getattr(spec, name).weight_offset)
    layer = spec.layers[role.layer]
    qk_norm = layer.attention.qk_norm if layer.attends else None
    norm = qk_norm.norm if qk_norm and name in ("q_norm", "k_norm") else getattr(layer, name)
    return float(norm.weight_offset)


def to_bf16_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_weights(weights: Weights) -> Weights:
    """Matrices as bf16 bits, vectors as they are."""
    return {k: to_bf16_bits(v) if v.ndim == 2 else v for k, v in weights.items()}


def to_float32(weight: NDArray[Any]) -> NDArray[np.float32]:
    """A weight's values; uint16 is read as the bits of bfloat16."""
    if weight.dtype == np.uint16:
        return (weight.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(weight, np.float32)


def make_model(spec: DecoderSpec, weights: Weights, **settings: Any) -> NativeModel:
    """A small one; settings override."""
    settings = {
        "dtype": "float32", "num_blocks": 256, "max_tokens": 2048, "num_threads": 1,
    } | settings  # fmt: skip
    return NativeModel(spec, weights, **settings)


def random_tokens(spec: DecoderSpec, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, spec.vocab_size, count).tolist()


def error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference, in standard deviations of the wanted logits."""
    return float(np.abs(found - wanted).max() / wanted.std())


def token_rows(lengths: Sequence[int], spec: DecoderSpec) -> list[tuple[int, list[int]]]:
    """(sequence, tokens) of random prompts of these lengths."""
    return [(i, random_tokens(spec, n, seed=i)) for i, n in enumerate(lengths)]
