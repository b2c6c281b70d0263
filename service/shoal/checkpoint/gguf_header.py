"""The header of a GGUF file (ggml's single-file format), with every number checked before use.

A file is: magic, version, counts, metadata (key, type, value), tensor entries (name, dimensions,
type, offset), padding, data. All little endian. Nobody has checked a file before us: counts,
lengths, types, dimensions and offsets are compared with the size of the file before anything is
allocated or read by them.

The header is read, not mapped: who needs no tensors, as the HTTP side, touches no page of a
mapping, and a file that somebody cuts short cannot end that process.

Source of the layout: the GGUF specification, ggml-org/ggml, docs/gguf.md.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.files import BLOCKS, StoredTensor
from shoal.checkpoint.read import refuse_lfs_pointer, where
from shoal.errors import ModelFolderError

MAGIC = b"GGUF"
MAX_ENTRIES = 1 << 16
"""Of metadata, and of tensors."""
MAX_STRINGS = 1 << 21
"""In all arrays of a file together: bounds what parsing may take."""
MAX_HEADER_BYTES = 256 << 20
"""The largest vocabularies take 30 MB."""
MAX_NAME_BYTES = 1 << 10
MAX_ALIGNMENT = 1 << 16
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY, _BOOL, _FLOAT32 = 8, 9, 7, 6
_SCALARS: Mapping[int, np.dtype[Any]] = {
    kind: np.dtype(name)
    for kind, name in enumerate(
        ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "u1", None, None, "<u8", "<i8", "<f8")
    )
    if name is not None
}
"""Number of a value type -> how it is stored; 7 is a truth value."""
_NUMBERS: Mapping[int, tuple[str, np.dtype[Any]]] = {
    0: ("F32", np.dtype("<f4")),
    1: ("F16", np.dtype("<f2")),
    30: ("BF16", np.dtype("<u2")),  # NumPy has none: the bits
}
"""Number of a tensor type -> its name and how it is stored, where it is no block."""
_BLOCK_TYPES = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K",
                14: "Q6_K"}  # fmt: skip
_FIRST_BYTES = 1 << 16
_LEAST_ENTRY_BYTES = 8 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of itself, and views of its tensors."""

    file: str
    """Folder and file, for errors."""
    metadata: Mapping[str, Any]
    """int, float, bool, str, list of str, or a NumPy array. A float32 is the shortest decimal
    that reads as the same float32, so that 1e-5 is 1e-5 again."""
    tensors: Mapping[str, StoredTensor]
    """By their names in the file; shapes as NumPy has them, rows first."""


class _Entry(NamedTuple):
    name: str
    shape: tuple[int, ...]
    """Rows first."""
    kind: int
    offset: int
    """From the start of the data."""


def read_header(path: Path) -> GgufHeader:
    """Raises ModelFolderError naming file and what is wrong with it."""
    file_name = where(path)
    refuse_lfs_pointer(path)
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < 24:
                raise ModelFolderError(f"{file_name} is too short to be a GGUF file")
            return _Reader(file, file_name).read()
    except OSError as error:
        raise ModelFolderError(f"{file_name} cannot be read: {error.strerror}") from error


class _Reader:
    """Reads from front to back; every step is checked against the end of the file."""

    def __init__(self, file: BinaryIO, file_name: str) -> None:
        self._source = file
        self._size = file.seek(0, 2)
        self._data = b""
        """The beginning of the file, as far as it was needed."""
        self._file = file_name
        self._at = 0
        self._num_strings = 0

    def read(self) -> GgufHeader:
        num_tensors, num_entries = self._counts()
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._name("a metadata key")
            if key in metadata:
                raise self._bad(f"metadata key {key!r} stands twice")
            metadata[key] = self._value(key, self._unsigned(4))
        entries = [self._entry() for _ in range(num_tensors)]
        start = _aligned(self._at, self._alignment(metadata))
        return GgufHeader(self._file, metadata, self._views(entries, start, metadata))

    # --- header ---------------------------------------------------------------------------------

    def _counts(self) -> tuple[int, int]:
        """(tensors, metadata entries)."""
        if self._bytes(4) != MAGIC:
            raise self._bad("it does not begin with GGUF: it is no GGUF file")
        version = self._unsigned(4)
        if version.to_bytes(4, "big") in (b"\2\0\0\0", b"\3\0\0\0"):
            raise self._bad("it is big endian: use the little-endian release of the model")
        if version not in (2, 3):
            raise self._bad(
                f"version {version} of the format is not supported, only 2 and 3: convert the "
                "model again with a current llama.cpp"
            )
        num_tensors, num_entries = self._unsigned(8), self._unsigned(8)
        left = self._size - self._at
        for count, least, what in (
            (num_tensors, _LEAST_TENSOR_BYTES, "tensors"),
            (num_entries, _LEAST_ENTRY_BYTES, "metadata entries"),
        ):
            if count > MAX_ENTRIES or count * least > left:
                raise self._bad(f"{count} {what} are impossible")
        return num_tensors, num_entries

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            return self._array(key)
        dtype = self._scalar_type(key, kind)
        value = np.frombuffer(self._bytes(dtype.itemsize), dtype)[0]
        if kind == _BOOL:
            if value > 1:
                raise self._bad(f"{key!r} is neither true nor false")
            return bool(value)
        return float(str(value)) if kind == _FLOAT32 else value.item()

    def _array(self, key: str) -> Any:
        kind, count = self._unsigned(4), self._unsigned(8)
        if kind == _ARRAY:
            raise self._bad(f"{key!r} is an array of arrays, which is not supported")
        left = self._size - self._at
        if kind == _STRING:
            self._num_strings += count
            if count * 8 > left or self._num_strings > MAX_STRINGS:
                raise self._bad(f"{key!r} has an impossible number of strings, {count}")
            return [self._string(key) for _ in range(count)]
        dtype = self._scalar_type(key, kind)
        if count * dtype.itemsize > left:
            raise self._bad(f"{key!r} has an impossible number of elements, {count}")
        values = np.frombuffer(self._bytes(count * dtype.itemsize), dtype, count)
        return values.astype(np.bool_) if kind == _BOOL else values

    def _scalar_type(self, key: str, kind: int) -> np.dtype[Any]:
        if kind not in _SCALARS:
            raise self._bad(f"{key!r} has an unknown value type, {kind}")
        return _SCALARS[kind]

    def _entry(self) -> _Entry:
        name = self._name("a tensor name")
        num_dimensions = self._unsigned(4)
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise self._bad(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(self._unsigned(8) for _ in range(num_dimensions))[::-1]
        if not all(0 < size < 1 << 48 for size in shape):
            raise self._bad(f"tensor {name!r} has an impossible shape, {list(shape)}")
        return _Entry(name, shape, self._unsigned(4), self._unsigned(8))

    def _alignment(self, metadata: Mapping[str, Any]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            raise self._bad(f"general.alignment must be a power of two; it is {str(value)[:40]}")
        return int(value)

    # --- tensors --------------------------------------------------------------------------------

    def _views(
        self, entries: list[_Entry], start: int, metadata: Mapping[str, Any]
    ) -> dict[str, StoredTensor]:
        alignment = self._alignment(metadata)
        data = mmap.mmap(self._source.fileno(), 0, access=mmap.ACCESS_READ)
        tensors: dict[str, StoredTensor] = {}
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.offset):
            name = entry.name
            if name in tensors:
                raise self._bad(f"tensor {name!r} stands twice")
            if entry.offset % alignment or entry.offset < end:
                raise self._bad(f"tensor {name!r} overlaps another or is not aligned")
            dtype, array_type, shape = self._stored(entry)
            num_bytes = math.prod(shape) * array_type.itemsize
            end = entry.offset + num_bytes
            if start + end > len(data):
                raise self._bad(
                    f"tensor {name!r} lies outside of the file, which is cut short: fetch it again"
                )
            array: NDArray[Any] = np.frombuffer(
                data, array_type, math.prod(shape), start + entry.offset
            ).reshape(shape)
            tensors[name] = StoredTensor(dtype, array, self._file)
        return tensors

    def _stored(self, entry: _Entry) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
        """(dtype, NumPy's type, shape of the array)."""
        if entry.kind in _NUMBERS:
            return *_NUMBERS[entry.kind], entry.shape
        if entry.kind not in _BLOCK_TYPES:
            known = ", ".join([*(name for name, _ in _NUMBERS.values()), *_BLOCK_TYPES.values()])
            raise self._bad(
                f"tensor {entry.name!r} is stored as {_type_name(entry.kind)}, which Shoal cannot "
                f"read: use a release of the model in one of {known} (Q4_K_M, Q5_K_M, Q6_K and "
                "Q8_0 files are made of these)"
            )
        name = _BLOCK_TYPES[entry.kind]
        block = BLOCKS[name]
        *rows, size = entry.shape
        if size % block.numbers:
            raise self._bad(f"tensor {entry.name!r}: rows of {size} are no whole blocks of {name}")
        return name, np.dtype("u1"), (*rows, size // block.numbers * block.num_bytes)

    # --- bytes ----------------------------------------------------------------------------------

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._need(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _need(self, count: int) -> None:
        """Reads on, so that `count` more bytes are there. Raises ModelFolderError."""
        end = self._at + count
        if end > self._size:
            raise self._bad("the header is cut short or damaged: fetch the file again")
        if end > MAX_HEADER_BYTES:
            raise self._bad(f"the header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        self._source.seek(0)
        self._data = self._source.read(max(_FIRST_BYTES, 2 * end))
        if end > len(self._data):
            raise self._bad("it became shorter while it was read: fetch the file again")

    def _unsigned(self, num_bytes: int) -> int:
        return int.from_bytes(self._bytes(num_bytes), "little")

    def _string(self, what: str) -> str:
        at = self._at
        if at + 8 > len(self._data):
            self._need(8)
        (length,) = struct.unpack_from("<Q", self._data, at)
        self._at = at + 8
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._bad(f"{what!r} is not UTF-8 text") from error

    def _name(self, what: str) -> str:
        length = self._unsigned(8)
        if not 0 < length <= MAX_NAME_BYTES:
            raise self._bad(f"{what} of {length} bytes is impossible")
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._bad(f"{what} is not UTF-8 text") from error

    def _bad(self, problem: str) -> ModelFolderError:
        return ModelFolderError(f"{self._file}: {problem}")


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _type_name(kind: int) -> str:
    import gguf  # not at the top: it is slow to load, and this is the only use

    try:
        return gguf.GGMLQuantizationType(kind).name
    except ValueError:
        return f"type {kind}, which is unknown"
