"""Small configs of every family, each with other sizes and switches: family -> name -> changes."""

from pathlib import Path
from typing import Any

from tests.fakes.tiny_models import write_tiny_model
from tests.model.cases_experts import EXPERT_CASES
from tests.model.cases_gpt_like import GPT_LIKE_CASES
from tests.model.cases_llama_like import LLAMA_LIKE_CASES

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.0, 2.0, 4.0, 7.5],
    "original_max_position_embeddings": 64,
}
WINDOW: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 21}

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "grouped heads": {},
        "one kv head": {"num_key_value_heads": 1},
        "as many kv heads": {"num_key_value_heads": 6},
        "no kv heads named": {"num_key_value_heads": None},
        "tied": {"tie_word_embeddings": True},
        "head_dim of its own": {"head_dim": 20, "num_hidden_layers": 3},
        "biases": {"attention_bias": True, "mlp_bias": True},
        "gelu": {"hidden_act": "gelu"},
        "gelu tanh, eps": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-2},
        "relu": {"hidden_act": "relu"},
        "padded vocabulary": {"vocab_size": 300},
        "theta": {"rope_theta": 500000.0},
        "theta in rope_scaling": {
            "rope_theta": None,
            "rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 500000.0},
        },
        "linear": {"rope_scaling": {"type": "linear", "factor": 3.0}},
        "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
        "llama3": {"rope_scaling": LLAMA3},
        "yarn": {"rope_scaling": YARN},
        "yarn, all fields": {
            "rope_scaling": {
                **YARN,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "mscale": 1.2,
                "mscale_all_dim": 0.7,
                "truncate": False,
            }
        },
        "yarn, attention factor": {"rope_scaling": {**YARN, "attention_factor": 1.3}},
        "yarn, original length on top": {
            "original_max_position_embeddings": 32,
            "rope_scaling": {"type": "yarn", "factor": 8.0},
        },
        "llama3, original length twice": {
            "original_max_position_embeddings": 32,
            "rope_scaling": LLAMA3,
        },
        "longrope, long": {"rope_scaling": LONGROPE},
        "longrope, short": {
            "max_position_embeddings": 220,
            "rope_scaling": {
                **LONGROPE,
                "factor": 3.0,
                "original_max_position_embeddings": 220,
            },
        },
        "longrope, attention factor": {"rope_scaling": {**LONGROPE, "attention_factor": 1.4}},
        "proportional": {
            "rope_scaling": {
                "rope_type": "proportional",
                "factor": 2.0,
                "partial_rotary_factor": 0.5,
                "rope_theta": 10000.0,
            }
        },
        "rope_parameters": {
            "rope_theta": None,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
        },
        "rope_parameters and another theta on top": {
            "rope_parameters": {**LLAMA3, "rope_theta": 5000.0}
        },
        "rope_parameters beside an empty rope_scaling": {
            "rope_scaling": {},
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        },
        "an empty rope_scaling alone": {"rope_scaling": {}},
    },
    "mistral": {
        "no window": {"sliding_window": None},
        "a window": {"sliding_window": 21},
        "a window, tied, yarn": {
            "sliding_window": 40,
            "tie_word_embeddings": True,
            "rope_scaling": YARN,
        },
        "head_dim of its own": {"sliding_window": 64, "head_dim": 12, "num_key_value_heads": 3},
    },
    "qwen2": {
        "plain": {},
        "an unused window, tied": {
            "use_sliding_window": False,
            "sliding_window": 21,
            "tie_word_embeddings": True,
        },
        "a window on every layer": {**WINDOW, "max_window_layers": 0},
        "a window on later layers": {**WINDOW, "max_window_layers": 1, "num_hidden_layers": 4},
        "a window by layer type": {
            **WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "num_hidden_layers": 3,
        },
        "a window on no layer": {**WINDOW, "max_window_layers": 28},
        "one kv head, yarn": {"num_key_value_heads": 1, "rope_scaling": YARN},
    },
    "qwen3": {
        "head_dim of its own": {},
        "tied, one kv head": {
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "head_dim": 32,
        },
        "biases, theta, eps": {
            "attention_bias": True,
            "rope_theta": 1000000.0,
            "rms_norm_eps": 1e-3,
        },
        "a window on later layers": {
            **WINDOW,
            "max_window_layers": 2,
            "num_hidden_layers": 3,
            "rope_scaling": YARN,
        },
    },
    "gpt2": {
        "plain": {},
        "untied, exact gelu, own width": {
            "tie_word_embeddings": False,
            "activation_function": "gelu",
            "n_inner": 100,
        },
        "scale by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        "no scale": {"scale_attn_weights": False},
        "all switches": {
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "n_head": 2,
        },
        "names of other families": {
            "n_embd": ...,
            "n_head": ...,
            "n_layer": ...,
            "n_positions": ...,
            "hidden_size": 40,
            "num_attention_heads": 5,
            "num_hidden_layers": 3,
            "max_position_embeddings": 230,
        },
    },
    "phi": {
        "half of each head turns": {},
        "phi-2": {"partial_rotary_factor": 0.4, "hidden_size": 80, "num_hidden_layers": 3},
        "grouped, norms of queries and keys": {
            "num_key_value_heads": 2,
            "qk_layernorm": True,
            "layer_norm_eps": 1e-3,
        },
        "tied, gelu, theta": {
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
            "rope_theta": 500.0,
        },
        "rope_parameters": {
            "partial_rotary_factor": None,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 5000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        "the family's own fraction": {"partial_rotary_factor": ...},
    },
    **LLAMA_LIKE_CASES,
    **GPT_LIKE_CASES,
    "lfm2": {
        "one layer attends": {},
        "layer types, biases, kernel of 4": {
            "full_attn_idxs": ...,
            "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"],
            "num_hidden_layers": 5,
            "conv_bias": True,
            "conv_L_cache": 4,
        },
        "kernel of 2, an MLP as written, not tied": {
            "conv_L_cache": 2,
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": False,
            "rope_theta": ...,
        },
        "a kernel longer than a block, a wider MLP": {
            "full_attn_idxs": [2],
            "block_ff_dim": 99,
            "conv_L_cache": 21,
            "block_ffn_dim_multiplier": 1.3,
        },
        "head_dim of its own, all attend": {
            "full_attn_idxs": ...,
            "head_dim": 20,
            "num_key_value_heads": 3,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
        },
    },
    **EXPERT_CASES,
}
ALL = [(family, name) for family, cases in CASES.items() for name in cases]


def write_case(folder: Path, family: str, name: str) -> Path:
    """The folder of a case; a key whose change is ... is left out of config.json."""
    return write_tiny_model(folder, family, **CASES[family][name])
