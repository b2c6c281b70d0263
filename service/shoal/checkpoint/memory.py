"""Memory that reading a model's files takes for a moment goes back to the system.

glibc's allocator keeps freed memory for the next requests: of a vocabulary of 50,000 tokens 30 MB,
which a server would never need again. Other allocators (musl, macOS) are left alone.
"""

import ctypes
from typing import Any

_M_ARENA_MAX = -8


def use_one_arena() -> None:
    """All threads share one heap, for of another thread's heap the end can never be given back.
    Call it before there are threads. In the engine MALLOC_ARENA_MAX=1 does the same."""
    if (set_option := _of_glibc("mallopt")) is not None:
        set_option(_M_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Call it when a model is loaded: it takes a few milliseconds, and the GIL is free."""
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it is not glibc."""
    try:
        library = ctypes.CDLL(None)
        return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # Windows
        return None
