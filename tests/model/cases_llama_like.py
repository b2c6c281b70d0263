"""Small configs of families that vary Llama; see `cases.py`."""

from typing import Any

LONG_PHI: dict[str, Any] = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.0, 4.0],
}
LINEAR: dict[str, Any] = {"rope_type": "linear", "factor": 2.0}
ALPHA: dict[str, Any] = {
    "type": "dynamic",
    "alpha": 1000.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

LLAMA_LIKE_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "gemma": {
        "tied": {"tie_word_embeddings": ...},
        "gelu means tanh, untied, biases": {
            "hidden_act": "gelu",
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
        "one kv head, wide heads, eps": {
            "num_key_value_heads": 1,
            "head_dim": 32,
            "rms_norm_eps": 1e-2,
            "num_hidden_layers": 3,
        },
        "both names of the activation": {
            "hidden_act": "gelu",
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_theta": 500.0,
        },
    },
    "gemma2": {
        "a window on every other layer": {"num_hidden_layers": 3},
        "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "caps and scale of the class": {
            "attn_logit_softcapping": ...,
            "final_logit_softcapping": ...,
            "query_pre_attn_scalar": ...,
            "tie_word_embeddings": ...,
        },
        "layer types, biases, gelu": {
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "num_hidden_layers": 3,
            "attention_bias": True,
            "hidden_act": None,
            "hidden_activation": "gelu",
        },
    },
    "gemma3_text": {
        "two bases": {},
        "pattern of the class, linear": {
            "sliding_window_pattern": ...,
            "num_hidden_layers": 7,
            "rope_local_base_freq": ...,
            "rope_theta": 100000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "tie_word_embeddings": ...,
        },
        "rope parameters by layer type": {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "num_hidden_layers": 3,
            "rope_parameters": {
                "full_attention": {**LINEAR, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
            "rope_theta": ...,
            "rope_local_base_freq": ...,
        },
        "logit cap, biases, one kv head": {
            "final_logit_softcapping": 4.0,
            "attention_bias": True,
            "num_key_value_heads": 1,
        },
    },
    "phi3": {
        "plain": {},
        "a window, one kv head": {"sliding_window": 21, "num_key_value_heads": 1},
        "longrope, long": {
            "num_attention_heads": 6,
            "partial_rotary_factor": 0.75,
            "rope_scaling": LONG_PHI,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
        "longrope, short, a window": {
            "partial_rotary_factor": 0.75,
            "rope_scaling": {**LONG_PHI, "factor": 3.0},
            "max_position_embeddings": 220,
            "original_max_position_embeddings": 220,
            "sliding_window": 33,
        },
    },
    "smollm3": {
        "every other layer unrotated": {"num_hidden_layers": 4, "tie_word_embeddings": ...},
        "layers named, longer than the network": {
            "no_rope_layers": [0, 1, 1, 0, 1, 0],
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
        },
        "a window, biases": {
            "use_sliding_window": True,
            "sliding_window": 21,
            "attention_bias": True,
            "mlp_bias": True,
        },
        "interval and theta of the class": {
            "no_rope_layer_interval": ...,
            "num_hidden_layers": 4,
            "rope_theta": ...,
        },
    },
    "granite": {
        "four multipliers": {},
        "tied, biases": {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": None,
        },
        "multipliers of the class, linear": {
            "embedding_multiplier": ...,
            "residual_multiplier": ...,
            "logits_scaling": ...,
            "attention_multiplier": 0.35,
            "rope_scaling": LINEAR,
        },
    },
    "cohere": {
        "plain": {},
        "norm of every head, biases": {
            "use_qk_norm": True,
            "attention_bias": True,
            "num_key_value_heads": 3,
        },
        "untied, theta and eps": {
            "tie_word_embeddings": False,
            "logit_scale": 1.0,
            "rope_theta": ...,
            "layer_norm_eps": 1e-2,
            "num_hidden_layers": 3,
        },
    },
    "cohere2": {
        "a window on every other layer": {"num_hidden_layers": 3},
        "pattern of the class, biases": {
            "sliding_window_pattern": ...,
            "num_hidden_layers": 5,
            "attention_bias": True,
        },
        "layer types, linear, untied": {
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_scaling": LINEAR,
            "tie_word_embeddings": False,
        },
    },
    "stablelm": {
        "half of each head turns": {},
        "parallel, norm of every head": {
            "use_parallel_residual": True,
            "qk_layernorm": True,
            "num_key_value_heads": 3,
        },
        "biases, norm of every head, tied": {
            "use_qkv_bias": True,
            "qk_layernorm": True,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
        },
        "the family's own fraction": {"partial_rotary_factor": ..., "num_attention_heads": 2},
    },
    "ernie4_5": {
        "neighbouring channels turn": {},
        "biases, theta of the class": {
            "use_bias": True,
            "rope_theta": ...,
            "tie_word_embeddings": True,
        },
        "head_dim null, linear": {"head_dim": None, "rope_scaling": LINEAR},
    },
    "hunyuan_v1_dense": {
        "norms after rotation": {},
        "alpha": {"rope_scaling": ALPHA, "tie_word_embeddings": True},
        "alpha in rope_parameters, biases": {
            "rope_theta": ...,
            "rope_parameters": {**ALPHA, "rope_type": "dynamic", "rope_theta": 5000.0},
            "attention_bias": True,
            "use_qk_norm": True,
        },
        "dynamic without alpha": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    },
    "nanochat": {
        "plain": {},
        "no cap, biases": {"final_logit_softcapping": None, "attention_bias": True},
        "tied, one kv head, gelu": {
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "hidden_act": "gelu",
            "final_logit_softcapping": 5.0,
        },
    },
}
