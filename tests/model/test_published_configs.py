"""The keys that published models of the families have, beside those that every config has: all are
read, and what makes the model special arrives in its spec."""

from typing import Any

import pytest

from shoal.model.registry import read_model
from shoal.model.spec import AttentionSpec, DecoderSpec

SIZES = {
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": [1, 106],
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.55.0",
    "use_cache": True,
}


def spec_of(model_type: str, architecture: str, **keys: Any) -> DecoderSpec:
    config = {**SIZES, "architectures": [architecture], "model_type": model_type, **keys}
    return read_model(config, "published/config.json").spec


def attention_of(spec: DecoderSpec) -> list[AttentionSpec]:
    return [layer.attention for layer in spec.layers]


def test_gemma_3_270m() -> None:
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 3
    spec = spec_of(
        "gemma3_text",
        "Gemma3ForCausalLM",
        _sliding_window_pattern=6,
        attention_bias=False,
        attn_logit_softcapping=None,
        cache_implementation="hybrid",
        final_logit_softcapping=None,
        head_dim=256,
        hidden_activation="gelu_pytorch_tanh",
        hidden_size=640,
        intermediate_size=2048,
        layer_types=kinds,
        max_position_embeddings=32768,
        num_attention_heads=4,
        num_hidden_layers=18,
        num_key_value_heads=1,
        query_pre_attn_scalar=256,
        rms_norm_eps=1e-06,
        rope_local_base_freq=10000.0,
        rope_scaling=None,
        rope_theta=1000000.0,
        sliding_window=512,
        use_bidirectional_attention=False,
        vocab_size=262144,
    )
    first, sixth = attention_of(spec)[0], attention_of(spec)[5]
    assert (first.window, sixth.window, first.scale) == (512, None, 1 / 16)
    assert first.rotary is not None
    assert sixth.rotary is not None
    assert first.rotary.inv_freq[1] == pytest.approx(10_000 ** (-1 / 128))
    assert sixth.rotary.inv_freq[1] == pytest.approx(1_000_000 ** (-1 / 128))
    assert (spec.tied_head, spec.embedding_multiplier) == (True, 640**0.5)


def test_gemma_2_2b() -> None:
    spec = spec_of(
        "gemma2",
        "Gemma2ForCausalLM",
        attention_bias=False,
        attn_logit_softcapping=50.0,
        cache_implementation="hybrid",
        final_logit_softcapping=30.0,
        head_dim=256,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        hidden_size=2304,
        intermediate_size=9216,
        max_position_embeddings=8192,
        num_attention_heads=8,
        num_hidden_layers=26,
        num_key_value_heads=4,
        query_pre_attn_scalar=256,
        rms_norm_eps=1e-06,
        rope_theta=10000.0,
        sliding_window=4096,
        vocab_size=256000,
    )
    assert [each.window for each in attention_of(spec)] == [4096, None] * 13
    assert (attention_of(spec)[0].soft_cap, spec.logit_soft_cap) == (50.0, 30.0)


def test_phi_4_mini() -> None:
    spec = spec_of(
        "phi3",
        "Phi3ForCausalLM",
        attention_bias=False,
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        embd_pdrop=0.0,
        full_attn_mod=1,
        hidden_act="silu",
        hidden_size=3072,
        intermediate_size=8192,
        interpolate_factor=1,
        lm_head_bias=False,
        max_position_embeddings=131072,
        mlp_bias=False,
        num_attention_heads=24,
        num_hidden_layers=2,
        num_key_value_heads=8,
        original_max_position_embeddings=4096,
        partial_rotary_factor=0.75,
        resid_pdrop=0.0,
        rms_norm_eps=1e-05,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        rope_theta=10000.0,
        sliding_window=262144,
        tie_word_embeddings=True,
        vocab_size=200064,
    )
    attention = attention_of(spec)[0]
    assert attention.rotary is not None
    assert (len(attention.rotary.inv_freq), attention.window) == (48, None)
    assert attention.rotary.inv_freq[0] == 0.5  # the long divisors: 131072 tokens are served
    assert attention.rotary.magnitude == pytest.approx(1.1902380714238083)


def test_command_r7b() -> None:
    spec = spec_of(
        "cohere2",
        "Cohere2ForCausalLM",
        attention_bias=False,
        head_dim=128,
        hidden_act="silu",
        hidden_size=4096,
        intermediate_size=14336,
        layer_norm_eps=1e-05,
        layer_switch=4,
        logit_scale=0.25,
        max_position_embeddings=132096,
        num_attention_heads=32,
        num_hidden_layers=8,
        num_key_value_heads=8,
        order_of_interleaved_layers="local_attn_first",
        position_embedding_type="rope_gptj",
        rope_scaling=None,
        rope_theta=50000,
        rotary_pct=1.0,
        sliding_window=4096,
        sliding_window_pattern=4,
        use_embedding_sharing=True,
        use_gated_activation=True,
        use_parallel_block=True,
        vocab_size=256000,
    )
    found = [(each.window, each.rotary is not None) for each in attention_of(spec)]
    assert found == [(4096, True), (4096, True), (4096, True), (None, False)] * 2
    assert (spec.logit_multiplier, spec.tied_head) == (0.25, True)


def test_hunyuan_0_5b() -> None:
    spec = spec_of(
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        attention_bias=False,
        attention_head_dim=128,
        eod_token_id=120020,
        head_dim=128,
        hidden_act="silu",
        hidden_size=1024,
        intermediate_size=3584,
        max_position_embeddings=262144,
        mlp_bias=False,
        num_attention_heads=8,
        num_experts=1,
        num_hidden_layers=24,
        num_key_value_heads=4,
        pretraining_tp=1,
        rms_norm_eps=1e-05,
        rope_scaling={
            "alpha": 1000.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
        rope_theta=10000.0,
        tie_word_embeddings=True,
        use_cla=False,
        use_qk_norm=True,
        vocab_size=120818,
    )
    rotary = attention_of(spec)[0].rotary
    assert rotary is not None
    base = 10_000 * 1000 ** (128 / 126)
    assert rotary.inv_freq[-1] == pytest.approx(base ** (-126 / 128))
