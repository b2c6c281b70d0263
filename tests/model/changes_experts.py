"""What `test_config_keys.py` changes in configs of the families of `cases_experts.py`, and their
weights as `transformers` holds them."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.fakes.tiny_models import CONFIGS, Arrays

BASES: dict[str, dict[str, Any]] = {
    "qwen2_moe": CONFIGS["qwen2_moe"]
    | {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1},
    "qwen3_moe": CONFIGS["qwen3_moe"] | {"use_sliding_window": True, "sliding_window": 11},
    "olmoe": CONFIGS["olmoe"] | {"clip_qkv": 0.9},
    "mixtral": CONFIGS["mixtral"] | {"sliding_window": 11},
}
CHANGES: dict[str, Any] = {
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "norm_topk_prob": True,
    "decoder_sparse_step": 3,
    "mlp_only_layers": [0, 1],
    "qkv_bias": True,
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "qwen2_moe": {
        "qkv_bias": False,
        "use_sliding_window": False,
        "max_window_layers": 0,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "qwen3_moe": {"use_sliding_window": False},
}

_ONE_BY_ONE = re.compile(r"(.*\.experts\.)(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_MATRIX_OF = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up"}


def as_in_memory(config: Mapping[str, Any], arrays: Arrays) -> Arrays:
    """Tensors as files have them -> as the network's own state: all experts of a matrix in one
    [experts, out, in], gate above up."""
    found: Arrays = {}
    parts: dict[str, dict[str, dict[int, Any]]] = {}
    for name, array in arrays.items():
        if (match := _ONE_BY_ONE.fullmatch(name)) is not None:
            matrix = _MATRIX_OF.get(match[3], "down")
            parts.setdefault(match[1], {}).setdefault(matrix, {})[int(match[2])] = array
        else:
            found[name] = array
    for prefix, matrices in parts.items():
        stacks = {
            matrix: np.stack([each[index] for index in range(len(each))])
            for matrix, each in matrices.items()
        }
        found[prefix + "gate_up_proj"] = np.concatenate((stacks["gate"], stacks["up"]), axis=1)
        found[prefix + "down_proj"] = stacks["down"]
    changes = {
        "granitemoe": {
            "input_linear.weight": "experts.gate_up_proj",
            "output_linear.weight": "experts.down_proj",
            "router.layer.weight": "router.weight",
        },
        "mixtral": {"block_sparse_moe": "mlp"},
    }
    for old, new in changes.get(str(config["model_type"]), {}).items():
        found = {name.replace(old, new): array for name, array in found.items()}
    return found
