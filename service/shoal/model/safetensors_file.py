"""Reads safetensors files (format by Hugging Face) with every number checked before use.

A file is: 8 bytes little-endian header length, JSON header, data. Arrays are views of a read-only
mapping; bfloat16 has no numpy type and comes as uint16.
"""

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ModelFolderError

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
MAX_COMMAS = 1 << 17
"""In a header: bounds what parsing it may take, before it is parsed. Some 20,000 tensors."""
_NUMPY: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as it lies in the file."""

    dtype: str
    """F32, F16 or BF16 (then `array` is uint16)."""
    array: NDArray[Any]


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a file. Raises ModelFolderError naming file and tensor."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise ModelFolderError(f"{path.name} is too short to be a safetensors file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelFolderError(f"{path.name} cannot be read: {error.strerror}") from error
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise ModelFolderError(f"{path.name}: header length {header_bytes} is impossible")
    entries = _parse_header(path, data[8 : 8 + header_bytes])
    return _views(path, entries, data, 8 + header_bytes)


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    if raw.count(b",") > MAX_COMMAS:
        raise ModelFolderError(f"{path.name}: header names too many tensors")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path.name}: header is not valid: {str(error)[:100]}") from error
    if not isinstance(header, dict):
        raise ModelFolderError(f"{path.name}: header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFolderError(f"{path.name}: __metadata__ is not a map of words")
    return header


def _views(
    path: Path, entries: dict[str, Any], data: mmap.mmap, start: int
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int]] = []
    for name, entry in entries.items():
        where = f"{path.name}: tensor {name[:100]!r}"
        dtype, shape, begin, end = _parse_entry(where, entry)
        count = 1
        for length in shape:
            count *= length
        if count * dtype.itemsize != end - begin:
            raise ModelFolderError(f"{where}: {end - begin} bytes do not fit its shape")
        if end > len(data) - start:
            raise ModelFolderError(f"{where} lies outside the file")
        ranges.append((begin, end))
        array = np.frombuffer(data, dtype, count, start + begin).reshape(shape)
        tensors[name] = StoredTensor(entry["dtype"], array)
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise ModelFolderError(f"{path.name}: tensors overlap or leave a gap at {begin}")
        position = end
    if position != len(data) - start:
        raise ModelFolderError(f"{path.name}: tensors end at {position}, data does not")
    return tensors


def _parse_entry(where: str, entry: Any) -> tuple[np.dtype[Any], list[int], int, int]:
    if not isinstance(entry, dict):
        raise ModelFolderError(f"{where}: entry is not an object")
    dtype = _NUMPY.get(str(entry.get("dtype")))
    if dtype is None:
        raise ModelFolderError(f"{where}: dtype {str(entry.get('dtype'))[:20]!r} is not supported")
    shape: object = entry.get("shape")
    offsets: object = entry.get("data_offsets")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS or 0 in shape:
        raise ModelFolderError(f"{where}: shape is not valid")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFolderError(f"{where}: data_offsets are not valid")
    begin, end = offsets
    return dtype, list(shape), begin, end


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 48
        for item in value
    )
