"""Work that grows with the request runs in a thread beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

INLINE_CHARS = 4096
"""Shorter texts are tokenized on the event loop: cheaper than switching threads."""

_workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """Runs work on `size` characters: inline if small, else in the worker thread."""
    if size <= INLINE_CHARS:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_workers, work)
