"""Random tiny models in the folder layout of a real one, for tests that need logits but no sense.

The weights are written by a safetensors writer of its own, so that readers are checked against it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoal.model.registry import read_model
from shoal.model.weights import expected_tensors
from tests.fakes.text_folder import END_ID, write_text_folder

Stored = Literal["F32", "F16", "BF16"]
Arrays = dict[str, NDArray[np.float32]]

VOCAB_SIZE = 272
"""The tokenizer's 261 ids, padded as real embeddings are."""

TINY_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": END_ID,
    "bos_token_id": END_ID,
}
TINY_GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "torch_dtype": "float32",
    "eos_token_id": END_ID,
    "bos_token_id": END_ID,
}
TINY_PHI: dict[str, Any] = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "hidden_act": "gelu_new",
    "torch_dtype": "float32",
    "eos_token_id": END_ID,
    "bos_token_id": END_ID,
}
TINY_LFM2: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 108,
    "block_multiple_of": 8,
    "num_hidden_layers": 3,
    "full_attn_idxs": [1],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "eos_token_id": END_ID,
    "bos_token_id": END_ID,
}
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "torch_dtype": "float32",
    "eos_token_id": END_ID,
    "bos_token_id": END_ID,
}
TINY_GPT_NEOX: dict[str, Any] = _COMMON | {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 256,
    "rotary_pct": 0.5,
}
TINY_GPT_NEO: dict[str, Any] = _COMMON | {
    "architectures": ["GPTNeoForCausalLM"],
    "model_type": "gpt_neo",
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": 256,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 21,
}
TINY_GPTJ: dict[str, Any] = _COMMON | {
    "architectures": ["GPTJForCausalLM"],
    "model_type": "gptj",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "rotary_dim": 6,
}
TINY_OPT: dict[str, Any] = _COMMON | {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 32,
    "ffn_dim": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
TINY_BLOOM: dict[str, Any] = _COMMON | {
    "architectures": ["BloomForCausalLM"],
    "model_type": "bloom",
    "hidden_size": 48,
    "n_layer": 2,
    "n_head": 6,
    "seq_length": 256,
}
TINY_FALCON: dict[str, Any] = _COMMON | {
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
TINY_MPT: dict[str, Any] = _COMMON | {
    "architectures": ["MptForCausalLM"],
    "model_type": "mpt",
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 6,
    "max_seq_len": 256,
}
TINY_STARCODER2: dict[str, Any] = _COMMON | {
    "architectures": ["Starcoder2ForCausalLM"],
    "model_type": "starcoder2",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_COHERE: dict[str, Any] = {
    "rms_norm_eps": ...,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.5,
    "tie_word_embeddings": True,
}
_LLAMA_LIKE: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "mistral": {"architectures": ["MistralForCausalLM"]},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "olmo": {"architectures": ["OlmoForCausalLM"], "rms_norm_eps": ...},
    "olmo2": {"architectures": ["Olmo2ForCausalLM"]},
    "olmo3": {
        "architectures": ["Olmo3ForCausalLM"],
        "num_hidden_layers": 4,
        "sliding_window": 21,
        "rope_theta": 500000.0,
    },
    "gemma": {
        "architectures": ["GemmaForCausalLM"],
        "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        "sliding_window": 21,
    },
    "gemma3_text": {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 16,
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 20,
        "sliding_window": 21,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 1000.0,
    },
    "phi3": {"architectures": ["Phi3ForCausalLM"], "pad_token_id": None},
    "smollm3": {
        "architectures": ["SmolLM3ForCausalLM"],
        "pad_token_id": None,
        "no_rope_layer_interval": 2,
    },
    "granite": {
        "architectures": ["GraniteForCausalLM"],
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 1.5,
    },
    "cohere": {"architectures": ["CohereForCausalLM"], **_COHERE},
    "cohere2": {
        "architectures": ["Cohere2ForCausalLM"],
        **_COHERE,
        "sliding_window": 21,
        "sliding_window_pattern": 2,
    },
    "stablelm": {
        "architectures": ["StableLmForCausalLM"],
        "rms_norm_eps": ...,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
    },
    "ernie4_5": {"architectures": ["Ernie4_5ForCausalLM"], "head_dim": 16},
    "hunyuan_v1_dense": {"architectures": ["HunYuanDenseV1ForCausalLM"], "head_dim": 16},
    "nanochat": {"architectures": ["NanoChatForCausalLM"], "hidden_act": "relu2"},
    "qwen2_moe": {
        "architectures": ["Qwen2MoeForCausalLM"],
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 56,
        "decoder_sparse_step": 2,
    },
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "head_dim": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "mlp_only_layers": [1],
    },
    "olmoe": {
        "architectures": ["OlmoeForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 3,
    },
    "granitemoe": {
        "architectures": ["GraniteMoeForCausalLM"],
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 1.5,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
}


def _like_llama(kind: str, own: dict[str, Any]) -> dict[str, Any]:
    config = TINY_LLAMA | own | {"model_type": kind}
    return {key: value for key, value in config.items() if value is not ...}


CONFIGS: dict[str, dict[str, Any]] = {
    **{kind: _like_llama(kind, own) for kind, own in _LLAMA_LIKE.items()},
    "gpt2": TINY_GPT2,
    "phi": TINY_PHI,
    "lfm2": TINY_LFM2,
    "gpt_neox": TINY_GPT_NEOX,
    "gpt_neo": TINY_GPT_NEO,
    "gptj": TINY_GPTJ,
    "opt": TINY_OPT,
    "bloom": TINY_BLOOM,
    "falcon": TINY_FALCON,
    "mpt": TINY_MPT,
    "starcoder2": TINY_STARCODER2,
}
"""`model_type` -> a config.json of that family."""


def write_tiny_llama(
    folder: Path, *, seed: int = 0, lock: bool = False, **config_changes: Any
) -> Path:
    """A loadable Llama folder. `torch_dtype="bfloat16"` stores the weights in that format."""
    return _write(folder, TINY_LLAMA | config_changes, seed, lock)


def write_tiny_gpt2(
    folder: Path, *, seed: int = 0, lock: bool = False, **config_changes: Any
) -> Path:
    """The same for GPT-2, whose matrices are stored [in, out]."""
    return _write(folder, TINY_GPT2 | config_changes, seed, lock)


def write_tiny_model(
    folder: Path, kind: str = "llama", *, stored: Stored = "F32", seed: int = 0, **changes: Any
) -> Path:
    """Any family by the `model_type` of its config.json, see CONFIGS. The vocabulary is the
    tokenizer's, not padded. A change to ... takes the key out."""
    formats = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    own: dict[str, Any] = {"torch_dtype": formats[stored], "vocab_size": 261}
    config = CONFIGS[kind] | own | changes
    return _write(folder, {k: v for k, v in config.items() if v is not ...}, seed, False)


def random_weights(config: Mapping[str, Any], seed: int = 0) -> Arrays:
    """Weights of a config.json: matrices of unit gain, scales of norms near one, biases near
    zero."""
    rng = np.random.default_rng(seed)
    architecture, spec, _ = read_model(config, "tiny/config.json")
    offset = spec.final_norm.weight_offset if spec.final_norm else 0.0
    arrays: Arrays = {}
    for name, (shape, source, _) in expected_tensors(architecture, spec).items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) > 1 and not source.per_head:
            values *= np.float32(shape[0 if source.transposed else -1] ** -0.5)
            if source.roles[0].endswith("embedding"):
                values *= np.float32(2)
        else:
            values *= np.float32(0.2)
            if not name.endswith(".bias"):
                values += np.float32(1 - offset)
        arrays[name] = values.astype(np.float32)
    return arrays


def save_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """float32, float16, or uint16 for the bits of bfloat16."""
    header: dict[str, Any] = {}
    data = b""
    kinds = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    for name, array in arrays.items():
        start = len(data)
        data += array.tobytes()
        header[name] = {
            "dtype": kinds[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, len(data)],
        }
    path.write_bytes(framed(header, data))


def framed(header: Any, data: bytes) -> bytes:
    """The bytes of a safetensors file; a header that is bytes already is taken as it is."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Cut, not rounded: any bfloat16 number will do."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_lock(folder: Path) -> None:
    """lock.json over every other file of the folder."""
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.name != "lock.json"
    }
    (folder / "lock.json").write_text(json.dumps({"files": files}))


def _write(folder: Path, config: dict[str, Any], seed: int, lock: bool) -> Path:
    write_text_folder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    arrays: Mapping[str, NDArray[Any]] = random_weights(config, seed)
    match config["torch_dtype"]:
        case "bfloat16":
            arrays = {name: bfloat16_bits(array) for name, array in arrays.items()}
        case "float16":
            arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_safetensors(folder / "model.safetensors", arrays)
    if lock:
        write_lock(folder)
    return folder
