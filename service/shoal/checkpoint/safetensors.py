"""Reads safetensors files (format by Hugging Face) with every number checked before use.

A file is: 8 bytes little-endian header length, JSON header, data. Arrays are views of a read-only
mapping: nothing is copied, and pages that nobody reads are never loaded.

Why not the `safetensors` library: its NumPy reader copies each tensor, has no bfloat16, and its
header check neither limits what parsing costs nor says which tensor is wrong.
"""

import math
import mmap
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.read import refuse_lfs_pointer, strict_json, where
from shoal.errors import ModelFolderError

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
MAX_COMMAS = 1 << 17
"""In a header: bounds what parsing it may take, before it is parsed. Some 20,000 tensors."""
_NUMPY: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has none: the bits
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),  # a file may hold other bytes than 0 and 1
}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a file. Raises ModelFolderError naming file and tensor."""
    file_name = where(path)
    refuse_lfs_pointer(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise ModelFolderError(f"{file_name} is too short to be a safetensors file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelFolderError(f"{file_name} cannot be read: {error.strerror}") from error
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise ModelFolderError(
            f"{file_name}: header length {header_bytes} is impossible: the file is damaged, cut "
            "short or no safetensors file; fetch it again"
        )
    entries = _parse_header(file_name, data[8 : 8 + header_bytes])
    return _views(file_name, entries, data, 8 + header_bytes)


def _parse_header(file_name: str, raw: bytes) -> dict[str, Any]:
    if raw.count(b",") > MAX_COMMAS:
        raise ModelFolderError(f"{file_name}: header names too many tensors")
    try:
        header = strict_json(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file_name}: header is not valid: {str(error)[:100]}") from error
    if not isinstance(header, dict):
        raise ModelFolderError(f"{file_name}: header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFolderError(f"{file_name}: header's __metadata__ is not a map of strings")
    return header


def _views(
    file_name: str, entries: dict[str, Any], data: mmap.mmap, start: int
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int]] = []
    for name, entry in entries.items():
        at = f"{file_name}: tensor {name[:100]!r}"
        dtype, shape, begin, end = _parse_entry(at, entry)
        count = math.prod(shape)
        if count * dtype.itemsize != end - begin:
            raise ModelFolderError(f"{at}: {end - begin} bytes do not fit its shape")
        if end > len(data) - start:
            raise ModelFolderError(
                f"{at} lies outside the file: the file is cut short; fetch it again"
            )
        ranges.append((begin, end))
        array = np.frombuffer(data, dtype, count, start + begin).reshape(shape)
        tensors[name] = StoredTensor(entry["dtype"], array, file_name)
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise ModelFolderError(f"{file_name}: tensors overlap or leave a gap at {begin}")
        position = end
    if position != len(data) - start:
        raise ModelFolderError(f"{file_name}: tensors end at {position}, data does not")
    return tensors


def _parse_entry(at: str, entry: Any) -> tuple[np.dtype[Any], list[int], int, int]:
    if not isinstance(entry, dict):
        raise ModelFolderError(f"{at}: entry is not an object")
    name = str(entry.get("dtype"))[:20]
    dtype = _NUMPY.get(name)
    if dtype is None and name.startswith(("F8_", "F6_", "F4")):
        raise ModelFolderError(
            f"{at} is stored as {name}, a quantized format that Shoal cannot read: use the "
            "model's bfloat16, float16 or float32 release"
        )
    if dtype is None:
        raise ModelFolderError(f"{at}: dtype {name!r} is not supported")
    shape: object = entry.get("shape")
    offsets: object = entry.get("data_offsets")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelFolderError(f"{at}: shape is not valid")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFolderError(f"{at}: data_offsets are not valid")
    begin, end = offsets
    return dtype, shape, begin, end


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 48
        for item in value
    )
