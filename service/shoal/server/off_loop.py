"""Work that grows with the request runs in a thread beside the event loop.

Other requests and the probes go on meanwhile: Python code gives the interpreter up every few
milliseconds, and what is one long call (tokenizing) gives it up by itself or is bounded.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

INLINE_CHARS = 4096
"""Shorter texts are tokenized on the event loop: cheaper than switching threads."""
INLINE_BYTES = 16 * 1024
"""Smaller bodies are parsed there."""

_workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="request")
Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result], *, inline: int = INLINE_CHARS) -> Result:
    """Runs work on `size` characters or bytes: up to `inline` here, else in a worker thread."""
    if size <= inline:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_workers, work)
