"""What `test_config_keys.py` changes in configs of the families of `cases_gpt_like.py`."""

from typing import Any

from tests.fakes.tiny_models import CONFIGS

BASES: dict[str, dict[str, Any]] = {
    "opt-350m": CONFIGS["opt"] | {"do_layer_norm_before": False, "word_embed_proj_dim": 24},
    "falcon-40b": CONFIGS["falcon"] | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "olmo": CONFIGS["olmo"] | {"clip_qkv": 0.6},
    "starcoder2": CONFIGS["starcoder2"] | {"sliding_window": 11},
}
"""More and other bases; the first part of a name is a model_type."""
CHANGES: dict[str, Any] = {
    "rotary_pct": 0.25,
    "rotary_emb_base": 100.0,
    "num_layers": 3,
    "num_heads": 2,
    "attention_types": [[["local"], 2]],
    "attention_layers": ["global", "global"],
    "window_size": 7,
    "rotary_dim": 4,
    "ffn_dim": 100,
    "do_layer_norm_before": False,
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
    "word_embed_proj_dim": 40,
    "_remove_final_layer_norm": True,
    "n_embed": 96,
    "apply_residual_connection_post_layernorm": True,
    "bias": True,
    "alibi": True,
    "activation": "relu",
    "ffn_hidden_size": 100,
    "num_kv_heads": 1,
    "multi_query": True,
    "parallel_attn": False,
    "new_decoder_architecture": True,
    "num_ln_in_parallel_attn": 1,
    "d_model": 96,
    "n_heads": 2,
    "n_layers": 3,
    "attn_config": {"clip_qkv": 0.3},
    "no_bias": False,
    "expansion_ratio": 3,
    "clip_qkv": 0.3,
    "norm_epsilon": 0.1,
    "norm_type": "rms_norm",
    "mlp_type": "gated",
}
UNTIED = {"tie_word_embeddings": False}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "gpt_neox": {"use_parallel_residual": False, "attention_bias": False},
    "gpt_neo": UNTIED,
    "opt": UNTIED | {"activation_function": "gelu"},
    "opt-350m": UNTIED | {"activation_function": "gelu", "do_layer_norm_before": True},
    "bloom": UNTIED,
    "falcon": UNTIED | {"multi_query": False, "num_ln_in_parallel_attn": 2},
    "falcon-40b": UNTIED | {"new_decoder_architecture": False},
    "mpt": UNTIED,
    "olmo3": {
        "layer_types": ["full_attention", *["sliding_attention"] * 3],
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 3.0}},
    },
    "starcoder2": UNTIED | {"use_bias": False},
}
WITHOUT_EFFECT: dict[str, Any] = {"max_seq_len": 128}
IGNORED = {
    ("falcon", "num_kv_heads"),
    ("falcon-40b", "multi_query"),
    ("opt-350m", "_remove_final_layer_norm"),
    ("gptj", "n_positions"),  # a limit
}
"""Without effect in this family, or void by another key of the config."""
