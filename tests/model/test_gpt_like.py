"""Configs of GPT-NeoX, GPT-Neo, GPT-J, OPT, BLOOM, Falcon, MPT, OLMo and StarCoder 2: those of
published models are read, what cannot be computed right is refused by name; ALiBi's slopes."""

from math import prod
from typing import Any

import pytest

from shoal.errors import ModelFolderError
from shoal.model.architectures.alibi import alibi_slopes
from shoal.model.registry import read_model
from shoal.model.spec import DecoderSpec, RotarySpec, expected_weights
from tests.fakes.tiny_models import CONFIGS
from tests.model.cases import YARN


def spec_of(family: str, **changes: Any) -> DecoderSpec:
    """A change to ... takes the key out."""
    config = {k: v for k, v in (CONFIGS[family] | changes).items() if v is not ...}
    return read_model(config, "tiny/config.json").spec


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gpt_neox", {"num_attention_heads": 5}, "num_attention_heads must divide hidden_size"),
    ("gpt_neox", {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be left out: .*_pct"),
    ("gpt_neox", {"rope_theta": 500.0}, "rope_theta must be left out"),
    ("gpt_neox", {"rotary_pct": 1.5}, "partial_rotary_factor|rotary_pct"),
    ("gpt_neo", {"attention_types": [[["global"], 3]]}, "attention_types must hold patterns"),
    ("gpt_neo", {"attention_types": [[["global", "near"], 1]]}, "attention_types must hold"),
    ("gpt_neo", {"attention_types": [[["global"], 10**9]]}, "attention_types must hold"),
    ("gpt_neo", {"attention_types": "global"}, "attention_types must hold patterns"),
    ("gpt_neo", {"attention_types": ...}, "attention_types must hold .* all num_layers"),
    ("gpt_neo", {"attention_layers": ["local"] * 2}, "attention_layers must agree with"),
    (
        "gpt_neo",
        {"attention_types": ..., "attention_layers": ["local"]},
        "attention_layers must say global or local of each of 2 layers",
    ),
    ("gpt_neo", {"num_hidden_layers": 3}, "num_hidden_layers must be equal to num_layers"),
    ("gptj", {"rotary_dim": None}, "rotary_dim must be the number of rotated channels"),
    ("gptj", {"rotary_dim": 5}, "rotary_dim must be even and at most the 8"),
    ("gptj", {"rotary_dim": 10}, "rotary_dim must be even and at most the 8"),
    ("opt", {"ffn_dim": None}, "ffn_dim must be a whole number"),
    ("opt", {"do_layer_norm_before": "no"}, "do_layer_norm_before must be true or false"),
    ("bloom", {"n_embed": 96}, "n_embed must be equal to hidden_size"),
    (
        "bloom",
        {"apply_residual_connection_post_layernorm": True},
        "apply_residual_connection_post_layernorm must be false",
    ),
    ("falcon", {"multi_query": False, "num_kv_heads": 2}, "num_kv_heads must be num_attention_h"),
    ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn must be 1 without new_"),
    (
        "falcon",
        {"new_decoder_architecture": True, "parallel_attn": False},
        "parallel_attn must be true with new_decoder_architecture",
    ),
    (
        "falcon",
        {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 3},
        "num_ln_in_parallel_attn must be 1 or 2",
    ),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3}, "num_kv_heads must divide"),
    ("mpt", {"no_bias": False}, "no_bias must be true"),
    ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale must be left out"),
    ("mpt", {"norm_type": "rmsnorm"}, "norm_type must be one of low_precision_layernorm"),
    ("mpt", {"attn_config": {"alibi": False}}, "attn_config: alibi must be true"),
    ("mpt", {"attn_config": {"alibi_bias_max": 16}}, "attn_config: alibi_bias_max must be 8"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config: qk_ln must be false"),
    ("mpt", {"attn_config": {"prefix_lm": True}}, "attn_config: prefix_lm must be false"),
    ("mpt", {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_config: attn_type must"),
    ("olmo", {"clip_qkv": -1.0}, "clip_qkv must be a positive number"),
    ("olmo", {"rms_norm_eps": 1e-5}, "rms_norm_eps must be left out"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv must be left out"),
    ("olmo3", {"rope_theta": 10000.0}, "rope_theta must be 500000, or stand in rope_parameters"),
    ("olmo3", {"rope_parameters": YARN}, "rope_parameters must hold full_attention and sliding"),
    ("olmo3", {"sliding_window": None}, "layer_types must have no sliding_attention"),
    ("starcoder2", {"norm_type": "rms_norm"}, "norm_type must be one of layer_norm"),
    ("starcoder2", {"mlp_type": "gated"}, "mlp_type must be one of default"),
    ("starcoder2", {"activation_function": "relu"}, "activation_function must be one of gelu"),
    ("starcoder2", {"layer_norm_epsilon": 0.1}, "layer_norm_epsilon must be equal to norm_eps"),
    ("llama", {"use_parallel_residual": True}, "use_parallel_residual must be left out"),
    ("llama", {"alibi": True}, "alibi must be left out"),
]


@pytest.mark.parametrize(
    ("family", "changes", "message"), REFUSED, ids=lambda value: repr(value)[:60]
)
def test_what_a_family_cannot_compute_right_is_refused_by_name(
    family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message) as caught:
        spec_of(family, **changes)
    assert len(caught.value.message) < 300


PYTHIA_14M: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 128,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
OPT_350M: dict[str, Any] = {
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "do_layer_norm_before": False,
    "dropout": 0.1,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "prefix": "</s>",
    "vocab_size": 50272,
    "word_embed_proj_dim": 512,
}
BLOOM_560M: dict[str, Any] = {
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["BloomForCausalLM"],
    "attention_softmax_in_fp32": True,
    "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05,
    "model_type": "bloom",
    "n_embed": 1024,
    "n_inner": None,
    "n_layer": 24,
    "num_attention_heads": 16,
    "pretraining_tp": 1,
    "seq_length": 2048,
    "slow_but_exact": False,
    "vocab_size": 250880,
}
FALCON_7B: dict[str, Any] = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["FalconForCausalLM"],
    "bias": False,
    "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05,
    "model_type": "falcon",
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "vocab_size": 65024,
}
GPT_J_6B: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPTJForCausalLM"],
    "layer_norm_epsilon": 1e-05,
    "model_type": "gptj",
    "n_embd": 4096,
    "n_head": 16,
    "n_inner": None,
    "n_layer": 28,
    "n_positions": 2048,
    "rotary": True,
    "rotary_dim": 64,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "vocab_size": 50400,
}
MPT_7B: dict[str, Any] = {
    "architectures": ["MPTForCausalLM"],
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    },
    "d_model": 4096,
    "embedding_fraction": 1.0,
    "expansion_ratio": 4,
    "learned_pos_emb": True,
    "logit_scale": None,
    "max_seq_len": 2048,
    "model_type": "mpt",
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "vocab_size": 50432,
}
PUBLISHED: dict[str, tuple[dict[str, Any], int, set[str]]] = {
    "Pythia 14M": (PYTHIA_14M, 14_067_712, set()),
    "OPT 350M": (OPT_350M, 331_194_368, {"activation_dropout"}),
    "BLOOM 560M": (BLOOM_560M, 559_214_592, {"attention_softmax_in_fp32"}),
    "Falcon 7B": (FALCON_7B, 6_921_720_704, set()),
    "GPT-J 6B": (GPT_J_6B, 6_050_882_784, {"rotary"}),
    "MPT 7B": (MPT_7B, 6_649_286_656, set()),
}
"""Config, parameters as published (but OPT's two unused positions), keys that nothing reads."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_published_number_of_parameters(name: str) -> None:
    config, num_parameters, unused = PUBLISHED[name]
    _, spec, unused_keys = read_model(config, "config.json")
    assert sum(map(prod, expected_weights(spec).values())) == num_parameters
    assert set(unused_keys) == unused


def test_a_window_is_on_the_local_layers_of_gpt_neo_and_three_of_four_of_olmo_3() -> None:
    def windows(spec: DecoderSpec) -> list[int | None]:
        return [layer.attention.window for layer in spec.layers]

    assert windows(spec_of("gpt_neo")) == [None, 21]
    assert windows(spec_of("gpt_neo", window_size=256)) == [None, None]  # as the context
    assert windows(spec_of("olmo3")) == [21, 21, 21, None]


def test_only_layers_of_olmo_3_without_a_window_have_scaled_rotations() -> None:
    def rotary(spec: DecoderSpec, layer: int) -> RotarySpec | None:
        return spec.layers[layer].attention.rotary

    plain, scaled = spec_of("olmo3"), spec_of("olmo3", rope_scaling=YARN)
    assert rotary(plain, 0) == rotary(plain, 3) == rotary(scaled, 0) != rotary(scaled, 3)
    # A window as long as the context is none, and the layer's rotation stays that of its type.
    long = spec_of("olmo3", rope_scaling=YARN, sliding_window=256)
    assert long.layers[0].attention.window is None
    assert rotary(long, 0) == rotary(plain, 0)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 6, 8, 12, 14, 16, 25, 32, 71])
def test_slopes_are_those_of_transformers(num_heads: int) -> None:
    torch = pytest.importorskip("torch")
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    mpt = pytest.importorskip("transformers.models.mpt.modeling_mpt")
    found = alibi_slopes(num_heads)
    of_bloom = bloom.build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1]
    assert found == pytest.approx(of_bloom.tolist(), rel=1e-5)
    of_mpt = -mpt.build_mpt_alibi_tensor(num_heads, 2)[:, 0, 0]
    assert found == pytest.approx(of_mpt.tolist(), rel=1e-5)


def test_slopes_of_falcon_are_scaled_as_scores_are() -> None:
    attention = spec_of("falcon", alibi=True, num_attention_heads=6).layers[0].attention
    assert attention.rotary is None
    assert attention.alibi_slopes == pytest.approx([one * 8**-0.5 for one in alibi_slopes(6)])
