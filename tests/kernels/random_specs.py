"""Networks that combine features of the spec at random, whether or not a family does."""

from dataclasses import replace
from typing import Any

import numpy as np

from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    ExpertsSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    QKNormSpec,
    RotarySpec,
)
from tests.kernels.building import rotary


def random_spec(seed: int) -> DecoderSpec:
    """Two to four layers, no two alike."""
    rng = np.random.default_rng([seed, 18])
    hidden_size = int(rng.integers(20, 100))
    return DecoderSpec(
        vocab_size=int(rng.integers(100, 700)),
        hidden_size=hidden_size,
        max_position_embeddings=256,
        layers=tuple(_layer(rng) for _ in range(rng.integers(2, 5))),
        final_norm=_maybe_norm(rng),
        tied_head=_coin(rng),
        head_bias=_coin(rng),
        learned_positions=_coin(rng),
        embedding_multiplier=_one_of(rng, 1.0, 3.0),
        embedding_norm=_maybe_norm(rng),
        embedding_size=_one_of(rng, None, hidden_size // 2, hidden_size + 19),
        logit_multiplier=_one_of(rng, 1.0, 0.3),
        logit_soft_cap=_one_of(rng, None, 5.0),
    )


def _one_of(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)


def _norm(rng: np.random.Generator) -> NormSpec:
    has_weight = bool(rng.random() < 0.7)
    return NormSpec(
        _one_of(rng, "rms", "layer"),
        _one_of(rng, 1e-5, 1e-6),
        bias=_coin(rng),
        weight_offset=_one_of(rng, 0.0, 1.0) if has_weight else 0.0,
        has_weight=has_weight,
    )


def _maybe_norm(rng: np.random.Generator) -> NormSpec | None:
    return _norm(rng) if rng.random() < 0.7 else None


def _rotary(rng: np.random.Generator, head_dim: int) -> RotarySpec:
    channels = 2 * int(rng.integers(1, head_dim // 2 + 1))
    turned = rotary(channels, _one_of(rng, 100.0, 10_000.0), _one_of(rng, 1.0, 1.2))
    return RotarySpec(turned.inv_freq, turned.magnitude, interleaved=_coin(rng))


def _qk_norm(rng: np.random.Generator) -> QKNormSpec:
    over = _one_of(rng, "head", "all")
    return QKNormSpec(
        _norm(rng),
        over=over,
        weight_per_head=over == "head" and _coin(rng),
        after_rotary=_coin(rng),
    )


def _attention(rng: np.random.Generator) -> AttentionSpec:
    num_kv_heads, head_dim = int(rng.integers(1, 4)), int(rng.integers(4, 36))
    num_heads = num_kv_heads * int(rng.integers(1, 5))
    slopes = tuple(2.0 ** -rng.integers(0, 9, num_heads).astype(float))
    clip = _one_of(rng, None, 0.8)
    return AttentionSpec(
        num_heads,
        num_kv_heads,
        head_dim,
        scale=head_dim**-0.5,
        qkv_bias=_coin(rng),
        output_bias=_coin(rng),
        rotary=_rotary(rng, head_dim) if _coin(rng) else None,
        qk_norm=_qk_norm(rng) if _coin(rng) else None,
        window=_one_of(rng, None, 5, 33),
        soft_cap=_one_of(rng, None, 2.0),
        alibi_slopes=_one_of(rng, None, slopes),
        clip_qkv=clip,
        clip_after_norm=clip is not None and _coin(rng),
    )


def _mlp(rng: np.random.Generator) -> MlpSpec:
    activation = _one_of(rng, "silu", "gelu", "gelu_tanh", "relu", "relu2")
    spec = MlpSpec(int(rng.integers(20, 150)), activation, gated=_coin(rng), bias=_coin(rng))
    if rng.random() < 0.6:
        return spec
    num_experts, shared = int(rng.integers(1, 20)), _one_of(rng, None, 19, 130)
    experts = ExpertsSpec(
        num_experts,
        int(rng.integers(1, min(num_experts, 5) + 1)),
        normalized=_coin(rng),
        shared_intermediate_size=shared,
        shared_gate=shared is not None and _coin(rng),
    )
    return replace(spec, experts=experts)


def _layer(rng: np.random.Generator) -> LayerSpec:
    is_parallel = bool(rng.random() < 0.3)
    return LayerSpec(
        _attention(rng),
        _mlp(rng),
        attention_norm=_maybe_norm(rng),
        mlp_norm=_maybe_norm(rng),
        attention_post_norm=_maybe_norm(rng),
        mlp_post_norm=_maybe_norm(rng),
        post_norm_of="branch" if is_parallel else _one_of(rng, "branch", "sum"),
        parallel=is_parallel,
        residual_multiplier=_one_of(rng, 1.0, 0.3),
    )
