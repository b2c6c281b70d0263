"""Small configs of families with experts; see `cases.py`."""

from typing import Any

LINEAR: dict[str, Any] = {"rope_type": "linear", "factor": 2.0}

EXPERT_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "qwen2_moe": {
        "every other layer": {"num_hidden_layers": 3},
        "every layer but one, weights of sum one": {
            "decoder_sparse_step": 1,
            "num_hidden_layers": 3,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
            "num_experts": 11,
            "num_experts_per_tok": 4,
        },
        "a window, no biases, tied": {
            "use_sliding_window": True,
            "sliding_window": 21,
            "max_window_layers": 3,
            "num_hidden_layers": 4,
            "qkv_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
        },
        "all experts picked": {
            "decoder_sparse_step": ...,
            "num_experts_per_tok": 5,
            "num_key_value_heads": 1,
            "moe_intermediate_size": 17,
            "shared_expert_intermediate_size": 90,
        },
    },
    "qwen3_moe": {
        "a dense layer": {},
        "experts named otherwise, weights of sum one": {
            "num_experts": ...,
            "num_local_experts": 20,
            "num_experts_per_tok": 5,
            "norm_topk_prob": True,
            "mlp_only_layers": ...,
        },
        "a window, biases, one expert picked": {
            "use_sliding_window": True,
            "sliding_window": 21,
            "attention_bias": True,
            "num_experts_per_tok": 1,
            "head_dim": ...,
        },
        "every other layer, tied, linear": {
            "decoder_sparse_step": 2,
            "num_hidden_layers": 4,
            "tie_word_embeddings": True,
            "rope_scaling": LINEAR,
            "mlp_only_layers": [],
        },
    },
    "olmoe": {
        "grouped heads": {},
        "clipped, weights of sum one": {"clip_qkv": 0.8, "norm_topk_prob": True},
        "no kv heads named, biases, tied": {
            "num_key_value_heads": None,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rms_norm_eps": ...,
        },
        "many small experts": {
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "intermediate_size": 16,
            "rope_theta": 500.0,
            "clip_qkv": 1.5,
        },
    },
    "granitemoe": {
        "four multipliers": {},
        "biases, tied, no kv heads named": {
            "attention_bias": True,
            "tie_word_embeddings": True,
            "num_key_value_heads": None,
            "num_experts_per_tok": 1,
        },
        "multipliers of the class, many experts": {
            "embedding_multiplier": ...,
            "residual_multiplier": ...,
            "logits_scaling": ...,
            "attention_multiplier": 0.35,
            "num_local_experts": 40,
            "num_experts_per_tok": 8,
            "intermediate_size": 24,
        },
    },
    "mixtral": {
        "no window": {},
        "a window, head_dim of its own": {"sliding_window": 21, "head_dim": 12},
        "theta of the class, tied, one expert picked": {
            "rope_theta": ...,
            "tie_word_embeddings": True,
            "num_experts_per_tok": 1,
            "num_local_experts": 9,
        },
    },
}
