"""Small GGUF files: models of `transformers` converted as llama.cpp's converter does it.

Names come from the `gguf` package, not from our tables, and what the converter changes (rows of
rotated heads, fused matrices, Gemma's norms) is written here a second time, in the other direction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from tests.fakes.text_folder import CHAT_TEMPLATE, SPECIALS, byte_tokenizer

Array = NDArray[Any]
Metadata = dict[str, Any]
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
CAN_QUANTIZE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types that the package can write; those with K it can only read."""
_UNQUANTIZED = ("ffn_gate_inp", "position_embd", "token_types", "norm", "shortconv.conv")


@dataclass(frozen=True, slots=True)
class Ready:
    """A tensor whose blocks are made already."""

    blocks: NDArray[np.uint8]
    kind: str


@dataclass(slots=True)
class GgufContent:
    """What a file is written from; keys without a dot are of the architecture."""

    architecture: str = "llama"
    metadata: Metadata = field(default_factory=dict)
    tensors: dict[str, Array | Ready] = field(default_factory=dict)


def write_gguf(path: Path, content: GgufContent, *, stored: str = "F32") -> Path:
    """`stored`: type of matrices that can have it; the rest is F32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, content.architecture)
    for key, value in content.metadata.items():
        full_key = key if key.startswith(("general.", "tokenizer.", "split.")) else ""
        _add(writer, full_key or f"{content.architecture}.{key}", value)
    for name, tensor in content.tensors.items():
        if isinstance(tensor, Ready):
            writer.add_tensor(name, tensor.blocks, raw_dtype=Kind[tensor.kind])
            continue
        kind = stored if is_quantized(name, tensor, stored) else "F32"
        if kind == "F32":
            writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(tensor, np.float32), Kind[kind])
            writer.add_tensor(name, data, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def is_quantized(name: str, tensor: Array, stored: str) -> bool:
    """Would a converter store this tensor in the type?"""
    size = gguf.GGML_QUANT_SIZES[Kind[stored]][0]
    is_matrix = tensor.ndim > 1 and tensor.shape[-1] % size == 0
    return is_matrix and not any(part in name for part in _UNQUANTIZED)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


# --- a model of transformers ----------------------------------------------------------------------


def converted(model: Any, architecture: str, **metadata: Any) -> GgufContent:
    """A network of `transformers` as the converter would write it; `metadata` comes on top."""
    config = model.config
    num_layers = config.num_hidden_layers
    names = gguf.get_tensor_name_map(_ARCHITECTURES[architecture], num_layers)
    content = GgufContent(architecture, _metadata(config) | metadata)
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        for name in ("lm_head.weight", "embed_out.weight"):
            state.pop(name, None)
    for name, array in _parts(state):
        array = _changed(name, array, architecture, config)
        if architecture == "bloom":
            name = name.removeprefix("transformer.")
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        content.tensors[new_name] = array
    content.metadata = {k: v for k, v in content.metadata.items() if v is not ...}
    return content


_ARCHITECTURES = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}


def _metadata(config: Any) -> Metadata:
    """What the converter writes for every architecture."""
    found: Metadata = {
        "block_count": config.num_hidden_layers,
        "context_length": getattr(config, "max_position_embeddings", 256),
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    found["feed_forward_length"] = inner or 4 * config.hidden_size
    if (kv := getattr(config, "num_key_value_heads", None)) is not None:
        found["attention.head_count_kv"] = kv
    for key, names in {
        "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
        "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    }.items():
        values = [getattr(config, name) for name in names if hasattr(config, name)]
        if values:
            found[key] = float(values[0])
    rope = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" in rope:
        found["rope.freq_base"] = float(rope["rope_theta"])
    if (head_dim := getattr(config, "head_dim", None)) is not None:
        found |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    return found


def _parts(state: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Tensors that the converter takes apart or puts together."""
    heads: dict[str, list[Array]] = {}
    for name, array in state.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(array, 2, axis=-2)
            yield name.replace("gate_up_proj", "gate_proj.weight"), gate
            yield name.replace("gate_up_proj", "up_proj.weight"), up
        elif name.endswith("experts.down_proj"):
            yield name + ".weight", array
        elif ".norms." in name:  # StableLM: one norm per head
            heads.setdefault(name.split(".norms.")[0] + ".weight", []).append(array)
        else:
            yield name, array
    for name, arrays in heads.items():
        yield name, np.stack(arrays)


def _changed(name: str, array: Array, architecture: str, config: Any) -> Array:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if architecture in ("llama", "granite", "smollm3", "olmo"):
        if ".q_proj." in name:
            return permuted(array, heads)
        if ".k_proj." in name:
            return permuted(array, kv_heads)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return array.T
    if "query_key_value" in name:
        if architecture != "falcon":
            return regrouped(array, heads, heads)
        is_single = config.multi_query and not config.new_decoder_architecture
        return regrouped(array, heads, 1 if is_single else config.num_kv_heads)
    return array[:, 0] if name.endswith("conv.conv.weight") else array


def permuted(array: Array, heads: int) -> Array:
    """Rotated channels that belong together, put beside each other."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def regrouped(array: Array, heads: int, kv_heads: int) -> Array:
    """Each KV head's queries, key and value -> all queries, all keys, all values."""
    per_group = heads // kv_heads + 2
    groups = array.reshape(kv_heads, per_group, -1, *array.shape[1:])
    parts = (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])
    return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])


def rounded(model: Any, stored: str) -> None:
    """The model's own matrices become what they are after a trip through the type."""
    import torch

    if stored == "F32":
        return
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        is_conv1d = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        is_transposed = is_conv1d and "transformer.h." in name
        rows = np.ascontiguousarray(array.T if is_transposed else array)
        if is_quantized(_plain_name(name), rows, stored):
            blocks = gguf.quants.quantize(rows, Kind[stored])
            values = gguf.quants.dequantize(blocks, Kind[stored])
            parameter.data = torch.from_numpy(values.T.copy() if is_transposed else values)


def _plain_name(name: str) -> str:
    """So that `is_quantized` knows what a converter keeps: routers, positions, norms."""
    for own, theirs in {"wpe": "position_embd", "mlp.gate.": "ffn_gate_inp"}.items():
        if own in name:
            return theirs
    return name


# --- tokenizers -----------------------------------------------------------------------------------


def byte_vocabulary(*, chat: bool = True) -> Metadata:
    """The tokenizer of `text_folder.py` and one merge more, as metadata: 262 ids."""
    vocab = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocab, key=lambda token: vocab[token]), "th"]
    found = vocabulary(
        "gpt2",
        tokens,
        [CONTROL if token in SPECIALS else NORMAL for token in tokens],
        pre="gpt-2",
        merges=["t h"],
        bos_token_id=tokens.index("<|endoftext|>"),
        eos_token_id=tokens.index("<|endoftext|>"),
    )
    return found | ({"tokenizer.chat_template": CHAT_TEMPLATE} if chat else {})


def vocabulary(model: str, tokens: Sequence[str], types: Sequence[int], **more: Any) -> Metadata:
    """`tokenizer.ggml.*`."""
    values = {"model": model, "tokens": list(tokens), "token_type": list(types), **more}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}
