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
_LLAMA_LIKE: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "mistral": {"architectures": ["MistralForCausalLM"]},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
}
CONFIGS: dict[str, dict[str, Any]] = {
    **{kind: TINY_LLAMA | own | {"model_type": kind} for kind, own in _LLAMA_LIKE.items()},
    "gpt2": TINY_GPT2,
    "phi": TINY_PHI,
    "lfm2": TINY_LFM2,
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
    """Weights of a config.json: matrices of unit gain, norms near one, biases near zero."""
    rng = np.random.default_rng(seed)
    architecture, spec, _ = read_model(config, "tiny/config.json")
    arrays: Arrays = {}
    for name, (shape, source, _) in expected_tensors(architecture, spec).items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            values *= np.float32(shape[0 if source.transposed else -1] ** -0.5)
            if source.roles[0].endswith("embedding"):
                values *= np.float32(2)
        else:
            values *= np.float32(0.2)
            if not name.endswith(".bias"):
                values += 1
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
