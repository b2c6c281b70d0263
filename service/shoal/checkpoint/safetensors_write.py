"""Writes safetensors files (format by Hugging Face) tensor by tensor, in any order: what is written
is never in memory as a whole. Above a size the tensors are cut into several files with an index.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_FILE_BYTES = 4_000_000_000
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

_METADATA = {"format": "pt"}  # transformers asks for it


class Layout(NamedTuple):
    """What a tensor will be."""

    dtype: str
    """F32, F16, or BF16 (its array is uint16 that holds the bits)."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


def write_safetensors(
    folder: Path,
    stem: str,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write `stem`.safetensors, or `stem`-00001-of-....safetensors and their index. `tensors` must
    be all of `layouts`, once each. Raises OSError, ValueError for another tensor."""
    cut = list(_cut(layouts, max_file_bytes))
    left = dict(layouts)
    with ExitStack() as stack:
        places: dict[str, tuple[BinaryIO, int]] = {}
        weight_map: dict[str, str] = {}
        for number, part in enumerate(cut, 1):
            name = f"{stem}-{number:05}-of-{len(cut):05}" if len(cut) > 1 else stem
            file = stack.enter_context((folder / f"{name}.safetensors").open("wb"))
            position = file.write(header(part))
            for key, layout in part.items():
                places[key] = file, position
                weight_map[key] = f"{name}.safetensors"
                position += layout.num_bytes
        for key, array in tensors:
            if key not in left or left[key].shape != array.shape:
                raise ValueError(f"{key} {array.shape} is not to be written, or not twice")
            in_order = np.ascontiguousarray(array, _DTYPES[left.pop(key).dtype])
            into, start = places[key]
            into.seek(start)
            into.write(in_order.reshape(-1).view(np.uint8).data)
    if left:
        raise ValueError(f"tensors are missing: {', '.join(left)}")
    if len(cut) > 1:
        total = sum(layout.num_bytes for layout in layouts.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        path = folder / f"{stem}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cut(layouts: Mapping[str, Layout], max_bytes: int) -> Iterator[dict[str, Layout]]:
    """In their order, each file as full as can be; a tensor above the limit has one of its own."""
    part: dict[str, Layout] = {}
    size = 0
    for name, layout in layouts.items():
        if part and size + layout.num_bytes > max_bytes:
            yield part
            part, size = {}, 0
        part[name] = layout
        size += layout.num_bytes
    yield part


def header(layouts: Mapping[str, Layout], metadata: Mapping[str, str] = _METADATA) -> bytes:
    """What comes before the tensors, which follow in this order. `metadata`: other things to be
    kept in it."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, (dtype, shape) in layouts.items():
        end = position + layouts[name].num_bytes
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    raw = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # data begins at a multiple of 8
    return len(raw).to_bytes(8, "little") + raw
