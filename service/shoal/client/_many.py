"""Many prompts through one client, a fixed number of requests at a time.

Results come back in the order of the prompts. Knows nothing of HTTP: it is given the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ._errors import Error

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

OnProgress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all) after each, in the caller's thread or task."""


def run_many(
    call: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    concurrency: int,
    on_progress: OnProgress | None,
    keep_errors: bool,
) -> list[ResultT | Error]:
    """Calls in up to `concurrency` threads. The first error ends it unless errors are kept."""
    work = list(items)
    results: dict[int, ResultT | Error] = {}
    waiting = iter(enumerate(work))
    with ThreadPoolExecutor(_checked(concurrency), thread_name_prefix="shoal") as pool:
        running: dict[Future[ResultT], int] = {}
        try:
            while True:
                for index, item in _take(waiting, concurrency - len(running)):
                    running[pool.submit(call, item)] = index
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    try:
                        results[index] = future.result()
                    except Error as error:
                        if not keep_errors:
                            raise
                        results[index] = error
                    if on_progress is not None:
                        on_progress(len(results), len(work))
        finally:  # after an error: nothing new begins, and what runs is waited for
            pool.shutdown(wait=True, cancel_futures=True)
    return [results[index] for index in range(len(work))]


async def run_many_async(
    call: Callable[[ItemT], Awaitable[ResultT]],
    items: Iterable[ItemT],
    *,
    concurrency: int,
    on_progress: OnProgress | None,
    keep_errors: bool,
) -> list[ResultT | Error]:
    """The same with tasks. An error or a cancel also cancels the requests that run."""
    work = list(items)
    results: dict[int, ResultT | Error] = {}
    waiting = iter(enumerate(work))

    async def worker() -> None:
        for index, item in waiting:  # one iterator for all workers: each takes the next
            try:
                results[index] = await call(item)
            except Error as error:
                if not keep_errors:
                    raise
                results[index] = error
            if on_progress is not None:
                on_progress(len(results), len(work))

    num_workers = min(_checked(concurrency), len(work))
    tasks = [asyncio.ensure_future(worker()) for _ in range(num_workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[index] for index in range(len(work))]


def _take(items: Iterator[ItemT], num: int) -> Iterator[ItemT]:
    for _, item in zip(range(num), items, strict=False):
        yield item


def _checked(concurrency: int) -> int:
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1; got {concurrency}")
    return concurrency
