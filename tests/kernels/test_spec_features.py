"""Every feature of the spec by itself, and random combinations: the float64 network's logits, and
the same bits in any company."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import available, kernel_sets, supports
from shoal.model.spec import DecoderSpec, ExpertsSpec, LayerSpec, MlpSpec, NormSpec, QKNormSpec
from tests.kernels.building import (
    LAYER_NORM,
    RMS,
    attention,
    bf16_weights,
    error,
    llama,
    make_model,
    make_weights,
    moe,
    random_tokens,
    rotary,
)
from tests.kernels.driving import logits_of, run_random_chunks
from tests.kernels.random_specs import random_spec

pytest.importorskip("torch")
from tests.kernels.reference import wanted_logits

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

BARE_RMS, BARE_LAYER = (NormSpec(kind, 1e-5, has_weight=False) for kind in ("rms", "layer"))
LAYER = llama().layers[0]
SLOPES = (0.5, 0.25, 0.1, 0.05, 1.0, 0.75)


def with_attention(**changes: Any) -> DecoderSpec:
    return llama(attention(6, 2, 16, **changes))


def with_layers(**changes: Any) -> DecoderSpec:
    return llama(layers=(replace(LAYER, **changes),) * 2)


def with_experts(*sizes: int, **changes: Any) -> MlpSpec:
    return MlpSpec(40, experts=ExpertsSpec(*sizes, **{"normalized": True} | changes))


FEATURES = {
    "interleaved": with_attention(rotary=replace(rotary(16), interleaved=True)),
    "interleaved_part": with_attention(rotary=replace(rotary(10), interleaved=True)),
    "qk_norm_over_all": with_attention(qk_norm=QKNormSpec(RMS, over="all")),
    "qk_layer_norm_over_all": with_attention(qk_norm=QKNormSpec(LAYER_NORM, over="all")),
    "qk_norm_over_all_after_rotary": with_attention(
        qk_norm=QKNormSpec(RMS, over="all", after_rotary=True)
    ),
    "qk_norm_with_weights_per_head": with_attention(
        qk_norm=QKNormSpec(LAYER_NORM, weight_per_head=True)
    ),
    "qk_norm_after_rotary": with_attention(qk_norm=QKNormSpec(RMS, after_rotary=True)),
    "qk_norm_without_weight": with_attention(qk_norm=QKNormSpec(BARE_RMS)),
    "rms_norm_without_weight": with_layers(attention_norm=BARE_RMS),
    "layer_norm_without_weight": with_layers(mlp_norm=BARE_LAYER),
    "norm_with_bias_alone": with_layers(mlp_norm=NormSpec("rms", 1e-5, True, has_weight=False)),
    "alibi": with_attention(alibi_slopes=SLOPES),
    "alibi_without_rotary": with_attention(rotary=None, alibi_slopes=SLOPES),
    "alibi_in_a_window": with_attention(alibi_slopes=SLOPES, window=21),
    "alibi_behind_a_soft_cap": with_attention(alibi_slopes=SLOPES, soft_cap=1.0),
    "clip_qkv": with_attention(clip_qkv=0.7),
    "clip_qkv_after_norm": with_attention(
        clip_qkv=0.7, clip_after_norm=True, qk_norm=QKNormSpec(RMS)
    ),
    "clip_qkv_after_norm_and_rotary": with_attention(
        clip_qkv=0.7, clip_after_norm=True, qk_norm=QKNormSpec(RMS, after_rotary=True)
    ),
    "clip_qkv_after_norm_over_all": with_attention(
        clip_qkv=0.7, clip_after_norm=True, qk_norm=QKNormSpec(RMS, over="all")
    ),
    "experts": with_layers(mlp=with_experts(6, 2)),
    "experts_with_weights_of_all": with_layers(mlp=with_experts(6, 2, normalized=False)),
    "one_expert_of_many": with_layers(mlp=with_experts(70, 1, normalized=False)),
    "every_expert": with_layers(mlp=with_experts(5, 5)),
    "experts_beside_a_shared_one": with_layers(mlp=with_experts(6, 2, shared_intermediate_size=77)),
    "experts_beside_a_shared_one_behind_a_gate": with_layers(
        mlp=with_experts(6, 3, shared_intermediate_size=20, shared_gate=True)
    ),
    "experts_without_gates_but_biases": with_layers(
        mlp=replace(with_experts(6, 2), gated=False, bias=True, activation="relu2")
    ),
    "experts_in_a_parallel_layer": with_layers(
        mlp=with_experts(6, 2), parallel=True, mlp_norm=None
    ),
    "experts_behind_norms_of_the_sum": with_layers(
        mlp=with_experts(6, 2), post_norm_of="sum", mlp_post_norm=LAYER_NORM
    ),
    "experts_behind_a_multiplied_norm": with_layers(
        mlp=with_experts(6, 2), mlp_post_norm=RMS, residual_multiplier=0.3
    ),
    "experts_in_some_layers": moe(
        ExpertsSpec(6, 2, normalized=False, shared_intermediate_size=70, shared_gate=True),
        ExpertsSpec(9, 3, normalized=True),
    ),
    "residual_multiplier": with_layers(residual_multiplier=0.3),
    "residual_multiplier_behind_norms": with_layers(
        residual_multiplier=0.3, attention_post_norm=RMS, mlp_post_norm=LAYER_NORM
    ),
    "residual_multiplier_in_a_parallel_layer": with_layers(residual_multiplier=0.3, parallel=True),
    "norms_of_the_sum": with_layers(
        post_norm_of="sum", attention_post_norm=LAYER_NORM, mlp_post_norm=LAYER_NORM
    ),
    "norms_of_a_multiplied_sum": with_layers(
        post_norm_of="sum", attention_post_norm=RMS, residual_multiplier=0.3
    ),
    "no_final_norm": llama(final_norm=None),
    "embedding_norm": llama(embedding_norm=LAYER_NORM),
    "embedding_norm_of_positions": llama(embedding_norm=RMS, learned_positions=True),
    "narrow_embedding": llama(embedding_size=37),
    "wide_embedding": llama(embedding_size=211),
    "narrow_tied_embedding": llama(embedding_size=37, tied_head=True, learned_positions=True),
    "logit_multiplier": llama(logit_multiplier=0.3),
    "logit_multiplier_before_a_cap": llama(
        logit_multiplier=3.0, logit_soft_cap=2.0, head_bias=True
    ),
    "token_types": llama(num_token_types=2),
    "token_types_and_positions": llama(
        num_token_types=1, learned_positions=True, embedding_norm=LAYER_NORM
    ),
    "both_directions": with_attention(causal=False),
    "both_directions_in_a_window": with_attention(causal=False, window=9),
    "both_directions_in_a_window_of_blocks": with_attention(causal=False, window=33),
    "both_directions_with_alibi_and_a_cap": with_attention(
        causal=False, rotary=None, alibi_slopes=SLOPES, soft_cap=2.0
    ),
    "relu2": llama(mlp=MlpSpec(136, "relu2")),
    "relu2_alone": llama(mlp=MlpSpec(136, "relu2", gated=False)),
    "layers_with_heads_of_their_own": llama(
        layers=tuple(
            LayerSpec(
                attention(heads, kv_heads, size, rotary=rotary(turned)), MlpSpec(60), RMS, RMS
            )
            for heads, kv_heads, size, turned in ((6, 2, 16, 16), (3, 3, 40, 8), (8, 1, 11, 10))
        )
    ),
}


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_gives_the_logits_of_the_float64_network(name: str, kernel_set: str) -> None:
    spec = FEATURES[name]
    assert supports(spec) == []
    weights, tokens = make_weights(spec), random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, kernel_set=kernel_set), tokens)
    assert error(found, wanted_logits(spec, 75)) < 2e-5


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("seed", range(24))
def test_combined_features_give_the_logits_of_the_float64_network(
    seed: int, kernel_set: str
) -> None:
    spec = random_spec(seed)
    weights, tokens = make_weights(spec, seed), random_tokens(spec, 60)
    found = logits_of(make_model(spec, weights, kernel_set=kernel_set), tokens)
    assert error(found, wanted_logits(spec, 60, seed=seed)) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("seed", range(9))
def test_combined_features_give_a_row_the_same_bits_in_any_company(
    seed: int, kernel_set: str, dtype: str
) -> None:
    spec = random_spec(seed)
    weights = make_weights(spec, seed)
    weights = bf16_weights(weights) if dtype == "bfloat16" else weights
    one, two = (
        make_model(spec, weights, dtype=dtype, kernel_set=kernel_set, num_threads=n) for n in (1, 2)
    )
    prompts = [random_tokens(spec, 3 + 17 * i, seed=i) for i in range(5)]
    alone = [logits_of(one, prompt) for prompt in prompts]
    for model, biggest in ((one, 1), (one, 30), (two, 9), (two, 80)):
        for found, wanted in zip(
            run_random_chunks(model, prompts, seed, biggest), alone, strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


def test_each_feature_changes_the_network() -> None:
    """A feature that both sides ignored would pass above."""
    for name, spec in FEATURES.items():
        if spec.embedding_size is not None or spec.num_layers != llama().num_layers:
            continue  # weights of other shapes
        bare = replace(
            spec,
            layers=tuple(replace(LAYER, parallel=layer.parallel) for layer in spec.layers),
            final_norm=RMS,
            embedding_norm=None,
            num_token_types=0,
            logit_multiplier=1.0,
        )
        weights, tokens = make_weights(bare) | make_weights(spec), random_tokens(spec, 40)
        found, without = (logits_of(make_model(s, weights), tokens) for s in (spec, bare))
        assert error(found, without) > 1e-3, name
