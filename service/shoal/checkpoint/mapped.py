"""Memory of mapped files: what was read stays resident until it is dropped or the system is short
of memory, and a limit on a process may count it."""

import mmap
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray


def drop_pages(array: NDArray[Any]) -> None:
    """Takes the pages of a view of a mapped file out of this process's memory: they stay the
    file's, and the next access brings them back. Other arrays are left as they are."""
    mapping = _mapping_of(array)
    if mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start_of_file = np.frombuffer(mapping, np.uint8).ctypes.data
    first, end = (address - start_of_file for address in byte_bounds(array))
    first -= first % mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, first, end - first)


def _mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The file that the array is a view of; None where it has memory of its own. A mapping that
    can be written is nobody's file: dropped pages would lose what was written."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    if isinstance(owner, mmap.mmap) and memoryview(owner).readonly:
        return owner
    return None
