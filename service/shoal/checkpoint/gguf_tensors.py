"""Tensors of a GGUF file under the names and in the layout that Hugging Face's models have.

llama.cpp's converter renames tensors, puts rows of some into another order, adds one to Gemma's
norms and transposes GPT-2's matrices. All of it is undone here. Rows are moved as they are, so
quantized blocks stay blocks; everything that is only renamed stays a view of the file.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.files import BLOCKS, StoredTensor

_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)")
_NAME = re.compile(r"(.+)\.(weight|bias)")
_USED_BY_CONFIG = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Divisors of rotary frequencies: the config has them (`gguf_config.py`)."""


class Heads(NamedTuple):
    """What the order of rows depends on."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


Change = Callable[[StoredTensor, Heads], StoredTensor]


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Names in a GGUF file -> names in Hugging Face's model, both without `.weight` and `.bias`.

    `{index}` in a name: the first dimension counts tensors of their own (experts, heads). Several
    names, joined by `+`: their rows follow each other (q, k and v).
    """

    top: Mapping[str, str]
    layer_prefix: str
    """Of every name in `layer`; `{layer}` stands for its index."""
    layer: Mapping[str, str]
    """Without `blk.<index>.`."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """GGUF name, as in `top` and `layer` -> what the converter did, undone."""


def renamed(
    tensors: Mapping[str, StoredTensor], names: TensorNames, heads: Heads
) -> dict[str, StoredTensor]:
    """All tensors. A name that is not in the table stays as it is, for an error that says so."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if name not in _USED_BY_CONFIG:
            for new_name, part in _renamed(name, tensor, names, heads):
                # Two names of a file may mean the same tensor: the second stays as it is.
                found[name if new_name in found else new_name] = part
    return found


def _renamed(
    name: str, tensor: StoredTensor, names: TensorNames, heads: Heads
) -> Iterator[tuple[str, StoredTensor]]:
    prefix, rest, table = "", name, names.top
    if (in_layer := _LAYER.fullmatch(name)) is not None:
        prefix = names.layer_prefix.format(layer=int(in_layer[1]))
        rest, table = in_layer[2], names.layer
    match = _NAME.fullmatch(rest)
    if match is None or match[1] not in table:
        yield name, tensor
        return
    base, kind = match[1], match[2]
    if (change := names.changes.get(base)) is not None:
        tensor = change(tensor, heads)
    template = prefix + table[base]
    if "{index}" in template:
        for index in range(tensor.array.shape[0]):
            yield template.format(index=index) + f".{kind}", _with(tensor, tensor.array[index])
    elif "+" in template:
        yield from _split(tensor, prefix, table[base].split("+"), kind, heads)
    else:
        yield f"{template}.{kind}", tensor


def _split(
    tensor: StoredTensor, prefix: str, names: list[str], kind: str, heads: Heads
) -> Iterator[tuple[str, StoredTensor]]:
    sizes = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
    start = 0
    for name, size in zip(names, sizes, strict=True):
        end = start + size * heads.head_dim
        yield f"{prefix}{name}.{kind}", _with(tensor, tensor.array[start:end])
        start = end


# --- what the converter did, undone ---------------------------------------------------------------


def unpermuted_q(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """Of each head, the converter puts rotated channels beside each other that belong together;
    here they are half a head apart."""
    return _halves_apart(tensor, heads.num_heads)


def unpermuted_k(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """The same of keys."""
    return _halves_apart(tensor, heads.num_kv_heads)


def qkv_by_kv_head(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """All queries, keys, then values -> each KV head's queries, key and value (GPT-NeoX, BLOOM,
    Falcon)."""
    num_kv, head_dim = heads.num_kv_heads, heads.head_dim
    rows = np.arange(tensor.array.shape[0])
    num_queries = heads.num_heads * head_dim
    if len(rows) != num_queries + 2 * num_kv * head_dim:
        return tensor  # its shape is refused where it is compared with the config
    parts = np.split(rows, (num_queries, num_queries + num_kv * head_dim))
    order = np.concatenate([part.reshape(num_kv, -1) for part in parts], 1).reshape(-1)
    return _with(tensor, tensor.array[order])


def without_one(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """Gemma's norms scale by 1 + weight; the file has the sum."""
    return StoredTensor("F32", dequantize(tensor) - np.float32(1), tensor.file)


def transposed(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """GPT-2's matrices are [in, out]. Blocks run along the input, so they cannot stay blocks."""
    if tensor.array.ndim != 2:
        return tensor
    if tensor.dtype in BLOCKS:
        return StoredTensor("F32", dequantize(tensor).T, tensor.file)
    return _with(tensor, tensor.array.T)


def one_row(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """[hidden] -> [1, hidden]."""
    return _with(tensor, tensor.array[None]) if tensor.array.ndim == 1 else tensor


def one_channel(tensor: StoredTensor, heads: Heads) -> StoredTensor:
    """[hidden, kernel] -> [hidden, 1, kernel], as PyTorch has a convolution of each channel."""
    return _with(tensor, tensor.array[:, None]) if tensor.array.ndim == 2 else tensor


def _halves_apart(tensor: StoredTensor, num_heads: int) -> StoredTensor:
    array = tensor.array
    if array.shape[0] % (2 * num_heads):
        return tensor  # its shape is refused where it is compared with the config
    pairs = array.reshape(num_heads, -1, 2, *array.shape[1:])
    return _with(tensor, pairs.swapaxes(1, 2).reshape(array.shape))


def _with(tensor: StoredTensor, array: NDArray[Any]) -> StoredTensor:
    return StoredTensor(tensor.dtype, array, tensor.file)
