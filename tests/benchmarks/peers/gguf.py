"""Converts a Llama folder in Hugging Face layout to llama.cpp's GGUF, without PyTorch.

One file holds metadata, tokenizer and tensors, as ggml's `docs/gguf.md` describes version 3. bf16
keeps every weight as it is; q8_0 rounds blocks of 32 weights to 8 bits as `llama-quantize` does.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 32
Q8_BLOCK = 32  # weights that share one scale
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # value types of the format
_TYPE_F32, _TYPE_Q8_0, _TYPE_BF16 = 0, 8, 30  # tensor types
_FILE_TYPES = {"bf16": 32, "q8_0": 7}
_NORMAL_TOKEN, _CONTROL_TOKEN = 1, 3
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Format = Literal["bf16", "q8_0"]


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes


def convert(folder: Path, file: Path, weights: Format) -> None:
    """Write `folder`'s model to `file`. Raises ValueError for what is no plain Llama model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["architectures"] != ["LlamaForCausalLM"] or config.get("rope_scaling"):
        raise ValueError(f"{folder} is not a plain Llama model")
    tensors = _tensors(folder, config, weights)
    metadata = {**_architecture(config, weights), **_tokenizer(folder, config)}
    draft = file.with_suffix(".part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            out.write(_string(key) + _value(value))
        offset = 0
        for tensor in tensors:
            sizes = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
            out.write(_string(tensor.name) + struct.pack("<I", len(tensor.shape)) + sizes)
            out.write(struct.pack("<IQ", tensor.kind, offset))
            offset += _aligned(len(tensor.data))
        out.write(bytes(_aligned(out.tell()) - out.tell()))
        for tensor in tensors:
            out.write(tensor.data + bytes(_aligned(len(tensor.data)) - len(tensor.data)))
    draft.rename(file)


def _architecture(config: dict[str, Any], weights: Format) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return {
        "general.architecture": "llama",
        "general.file_type": _FILE_TYPES[weights],
        "llama.vocab_size": config["vocab_size"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.key_length": head_dim,
        "llama.attention.value_length": head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.rope.dimension_count": head_dim,
        "llama.rope.freq_base": float(config["rope_theta"]),
    }


def _tokenizer(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A byte-level BPE with GPT-2's pattern. Other tokenizers raise ValueError."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = whole["pre_tokenizer"]
    if whole["model"]["type"] != "BPE" or pattern["type"] != "ByteLevel":
        raise ValueError(f"{folder}: only byte-level BPE is converted")
    ids: dict[str, int] = dict(whole["model"]["vocab"])
    special = {token["content"]: token["id"] for token in whole["added_tokens"]}
    ids.update(special)
    tokens = sorted(ids, key=lambda token: ids[token])
    if sorted(ids.values()) != list(range(config["vocab_size"])):
        raise ValueError(f"{folder}: ids with gaps, or not as many as vocab_size")
    merges = [m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            _CONTROL_TOKEN if token in special else _NORMAL_TOKEN for token in tokens
        ],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.add_bos_token": whole.get("post_processor") is not None,
    }


def _tensors(folder: Path, config: dict[str, Any], weights: Format) -> list[Tensor]:
    raw = np.memmap(folder / "model.safetensors", np.uint8, "r")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    header.pop("__metadata__", None)
    found = []
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name} is {entry['dtype']}, not BF16")
        begin, end = entry["data_offsets"]
        values = raw[start + begin : start + end].view(np.uint16).reshape(entry["shape"])
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            is_query = name.endswith("q_proj.weight")
            key = "num_attention_heads" if is_query else "num_key_value_heads"
            values = _neighbours(values, config[key])
        found.append(_pack(_renamed(name), values, weights))
    return found


def _neighbours(values: NDArray[np.uint16], num_heads: int) -> NDArray[np.uint16]:
    """Rows reordered: llama.cpp rotates dimensions 2i and 2i+1, Hugging Face i and i + half."""
    halves = values.reshape(num_heads, 2, -1, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _renamed(name: str) -> str:
    match name.removesuffix(".weight").removeprefix("model.").split(".", 2):
        case ["embed_tokens"]:
            return "token_embd.weight"
        case ["norm"]:
            return "output_norm.weight"
        case ["lm_head"]:
            return "output.weight"
        case ["layers", number, part]:
            return f"blk.{number}.{_NAMES[part]}.weight"
        case _:
            raise ValueError(f"unknown tensor {name}")


def _pack(name: str, values: NDArray[np.uint16], weights: Format) -> Tensor:
    """Matrices in the format asked for, vectors (norms) in float32, as llama.cpp keeps them."""
    if values.ndim > 1 and weights == "bf16":
        return Tensor(name, values.shape, _TYPE_BF16, values.tobytes())
    wide = (values.astype(np.uint32) << 16).view(np.float32)
    if values.ndim == 1:
        return Tensor(name, values.shape, _TYPE_F32, wide.tobytes())
    return Tensor(name, values.shape, _TYPE_Q8_0, quantize_q8_0(wide))


def quantize_q8_0(values: NDArray[np.float32]) -> bytes:
    """Blocks of a float16 scale and 32 int8 values; rows hold whole blocks."""
    blocks = values.reshape(-1, Q8_BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    scaled = blocks * inverse
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))  # halves away from zero
    packed = np.empty(len(blocks), np.dtype([("scale", "<f2"), ("values", "i1", (Q8_BLOCK,))]))
    packed["scale"] = scales[:, 0]
    packed["values"] = rounded
    return packed.tobytes()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case [str(), *_]:
            head = struct.pack("<IIQ", _ARRAY, _STRING, len(value))
            return head + b"".join(map(_string, value))
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _I32, len(value), *value)
        case _:
            raise ValueError(f"no value of this format: {value!r}")
