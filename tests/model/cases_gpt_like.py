"""Small configs of families that vary GPT-2, OLMo and StarCoder 2; see `cases.py`."""

from typing import Any

YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

GPT_LIKE_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "gpt_neox": {
        "parallel": {},
        "one after the other, no biases": {"use_parallel_residual": False, "attention_bias": False},
        "pythia": {"rotary_pct": ..., "hidden_size": 64, "num_attention_heads": 2},
        "all of each head turns, tied, theta": {
            "rotary_pct": 1.0,
            "rotary_emb_base": 500.0,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_fast",
            "layer_norm_eps": 1e-3,
        },
        "rope_parameters": {
            "rotary_pct": ...,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 5000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    },
    "gpt_neo": {
        "global and local": {},
        "untied, own width, exact gelu": {
            "tie_word_embeddings": False,
            "intermediate_size": 100,
            "activation_function": "gelu",
        },
        "another pattern": {
            "num_layers": 4,
            "attention_types": [[["local"], 1], [["global", "local", "local"], 1]],
        },
        "layers one by one": {
            "attention_types": ...,
            "attention_layers": ["local", "global"],
            "num_layers": ...,
            "num_hidden_layers": 2,
        },
        "the family's own pattern": {"attention_types": ..., "num_layers": 24, "window_size": 9},
    },
    "gptj": {
        "a part of each head turns": {},
        "all of each head turns, tied": {"rotary_dim": 8, "tie_word_embeddings": True},
        "own width, exact gelu": {"n_inner": 100, "activation_function": "gelu", "n_layer": 3},
        "the family's own rotary_dim": {"rotary_dim": ..., "n_embd": 256},
    },
    "opt": {
        "norms before": {},
        "350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 24},
        "350m, untied, norms without weights": {
            "do_layer_norm_before": False,
            "word_embed_proj_dim": 40,
            "tie_word_embeddings": False,
            "layer_norm_elementwise_affine": False,
        },
        "no biases, gelu": {
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
            "activation_function": "gelu",
        },
        "no final norm": {"_remove_final_layer_norm": True, "num_hidden_layers": 3},
    },
    "bloom": {
        "six heads": {},
        "eight heads, untied": {
            "n_head": ...,
            "num_attention_heads": 8,
            "tie_word_embeddings": False,
        },
        "three layers, eps, eleven heads": {
            "n_layer": 3,
            "hidden_size": ...,
            "n_embed": 88,
            "n_head": 11,
            "layer_norm_epsilon": 1e-2,
        },
    },
    "falcon": {
        "7b": {},
        "40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "11b": {
            "new_decoder_architecture": True,
            "num_attention_heads": 6,
            "num_kv_heads": 3,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 100,
            "rope_theta": 500000.0,
            "bias": True,
        },
        "rw-1b": {
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
        },
        "one after the other, untied": {
            "parallel_attn": False,
            "tie_word_embeddings": False,
            "activation": "gelu_new",
        },
        "as many kv heads, scaled rotation": {
            "multi_query": False,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        "alibi of one kv head, parallel": {"alibi": True, "num_attention_heads": 8},
    },
    "mpt": {
        "six heads": {},
        "eight heads, clipped, untied": {
            "n_heads": 8,
            "attn_config": {"clip_qkv": 0.7},
            "tie_word_embeddings": False,
        },
        "a scale of its own": {"n_layers": 3, "attn_config": {"softmax_scale": 0.7}},
    },
    "olmo": {
        "grouped heads": {},
        "clipped, tied": {"clip_qkv": 0.6, "tie_word_embeddings": True},
        "biases, no kv heads named, theta": {
            "attention_bias": True,
            "num_key_value_heads": None,
            "rope_theta": 500.0,
        },
        "linear": {"rope_scaling": {"type": "linear", "factor": 3.0}, "clip_qkv": 1.0},
    },
    "olmo2": {
        "grouped heads": {},
        "biases, eps, theta": {
            "attention_bias": True,
            "rms_norm_eps": 1e-2,
            "rope_theta": 500000.0,
        },
        "tied, head_dim of its own, yarn": {
            "tie_word_embeddings": True,
            "head_dim": 12,
            "num_key_value_heads": None,
            "rope_scaling": YARN,
        },
        "the family's own eps": {"rms_norm_eps": ...},
    },
    "olmo3": {
        "a window on three of four layers": {},
        "scaled without a window": {"rope_scaling": YARN, "tie_word_embeddings": True},
        "rotations by type": {
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_theta": ...,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
        "long windows, biases, the family's own theta": {
            "sliding_window": 300,
            "attention_bias": True,
            "rope_theta": ...,
        },
    },
    "starcoder2": {
        "grouped heads": {},
        "a window, untied, no biases": {
            "sliding_window": 21,
            "tie_word_embeddings": False,
            "use_bias": False,
        },
        "own head_dim, eps": {"head_dim": 12, "norm_epsilon": 1e-2, "num_key_value_heads": 3},
        "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}, "num_hidden_layers": 3},
        "keys of the first StarCoder": {
            "activation_function": "gelu",
            "layer_norm_epsilon": 1e-5,
            "norm_type": "layer_norm",
            "mlp_type": "default",
            "hidden_act": "gelu_pytorch_tanh",
        },
    },
}
