"""What threads and event loops do differently, written in both forms.

The rest of the sync client is generated from the async one: there `Async…` and `…_async` become
the names without it.
"""

from __future__ import annotations

import _thread
import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

from ._errors import Error
from ._http import cut_connection
from ._params import OnProgress
from ._retry import Clock

ItemT = TypeVar("ItemT")
OutcomeT = TypeVar("OutcomeT")


def sleep(clock: Clock, seconds: float) -> None:
    """Blocks the thread."""
    (clock.sleep or time.sleep)(seconds)


async def sleep_async(clock: Clock, seconds: float) -> None:
    """Lets other tasks run meanwhile."""
    if clock.sleep is not None:  # a test's, which does not wait
        clock.sleep(seconds)
    await asyncio.sleep(seconds if clock.sleep is None else 0)


class Body:
    """The body of an open response, read by blocking calls. Any: types of two HTTP libraries."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = response.iter_bytes()

    def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        return bytes(next(self._chunks, b""))

    def close(self, *, is_complete: bool = False) -> None:
        """Gives the connection back if the body was read to its end, else closes it, even while
        another thread reads."""
        if not is_complete:
            cut_connection(self._response)
        self._response.close()

    def close_later(self) -> None:
        """For a finalizer."""
        # The garbage collector may run this inside the HTTP library's connection pool, which then
        # holds its lock: closing here could deadlock. So a new thread does it; by `_thread`,
        # because `threading` has locks too.
        try:
            _thread.start_new_thread(self.close, ())
        except RuntimeError:
            pass  # the interpreter is ending, and the socket with it


class AsyncBody:
    """The same, read by awaiting. Belongs to the running event loop."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        return bytes(await anext(self._chunks, b""))

    async def close(self, *, is_complete: bool = False) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        await self._response.aclose()
        try:
            await self._chunks.aclose()
        except RuntimeError:
            pass  # another task is waiting in it, and wakes up to the closed connection

    def close_later(self) -> None:
        """For a finalizer."""
        # Only the event loop may close it, and the garbage collector runs in any thread.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._start_closing)

    def _start_closing(self) -> None:
        task = self._loop.create_task(self.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
"""The event loop itself holds its tasks only weakly."""


def run_many(
    call: Callable[[ItemT], OutcomeT],
    items: Iterable[ItemT],
    concurrency: int,
    on_progress: OnProgress | None,
    keep_errors: bool,
) -> list[OutcomeT | Error]:
    """Calls every item from up to `concurrency` threads; the results are in the order of items.

    The first error ends it unless errors are kept: no further call starts, and those that run
    are waited for.
    """
    work = list(items)
    waiting = iter(enumerate(work))
    results: dict[int, OutcomeT | Error] = {}
    running: dict[Future[OutcomeT], int] = {}
    with ThreadPoolExecutor(_checked(concurrency), thread_name_prefix="shoal") as pool:
        while len(results) < len(work):
            for index, item in islice(waiting, concurrency - len(running)):
                running[pool.submit(call, item)] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                try:
                    results[index] = future.result()
                except Error as error:
                    if not keep_errors:
                        error.completed = {**results, **_finished(running)}
                        raise
                    results[index] = error
                if on_progress is not None:
                    on_progress(len(results), len(work))
    return [results[index] for index in range(len(work))]


def _finished(running: dict[Future[OutcomeT], int]) -> dict[int, OutcomeT]:
    """The results of those that still succeed."""
    wait(running)
    return {index: call.result() for call, index in running.items() if call.exception() is None}


async def run_many_async(
    call: Callable[[ItemT], Awaitable[OutcomeT]],
    items: Iterable[ItemT],
    concurrency: int,
    on_progress: OnProgress | None,
    keep_errors: bool,
) -> list[OutcomeT | Error]:
    """The same with tasks. An error or a cancellation also cancels the calls that run."""
    work = list(items)
    waiting = iter(enumerate(work))
    results: dict[int, OutcomeT | Error] = {}

    async def worker() -> None:
        for index, item in waiting:  # one iterator for all workers: each takes the next
            try:
                results[index] = await call(item)
            except Error as error:
                if not keep_errors:
                    error.completed = results
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


def call_tool(call: Callable[[], OutcomeT]) -> OutcomeT:
    """Calls a tool's function."""
    return call()


async def call_tool_async(call: Callable[[], Any]) -> Any:
    """The same: a coroutine is awaited, a plain function runs in a thread of its own."""
    if inspect.iscoroutinefunction(getattr(call, "func", call)):
        return await call()
    return await asyncio.to_thread(call)


def _checked(concurrency: int) -> int:
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1; got {concurrency}")
    return concurrency
