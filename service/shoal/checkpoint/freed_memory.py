"""Gives the memory back that reading a model's files took for a moment."""

import ctypes
from functools import cache
from typing import Any


def release_freed_memory() -> None:
    """glibc's allocator keeps freed memory for the next request of the same thread: of a vocabulary
    of 50,000 tokens 30 MB, which would never be used again. Does nothing with another allocator."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
