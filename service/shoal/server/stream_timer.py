"""One timer per stream: says when it has been silent, and ends a send that does not come through.

A timer of the event loop instead of a task or a time-out around each chunk: it costs nothing per
chunk, since it looks at two moments only when it fires.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from shoal.errors import ClientGone


class StreamTimer:
    """A context manager around the sending loop of one stream, in the task that sends."""

    def __init__(self, *, ping_s: float, stall_s: float, on_silence: Callable[[], None]) -> None:
        """`ping_s`: seconds of silence after which `on_silence` is called, and again after as
        many; 0 = never. `stall_s`: seconds one send may take before its task is cancelled."""
        self._ping_s = ping_s
        self._stall_s = stall_s
        self._on_silence = on_silence
        self._stalled = False
        self.last_sent = time.monotonic()
        self.sending_since: float | None = None
        """While a send is under way: since when (monotonic)."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._fire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Raises ClientGone instead of the cancellation that the timer caused."""
        self._handle.cancel()
        if self._stalled and isinstance(error, asyncio.CancelledError):
            assert self._task is not None, "the timer runs in a task"
            self._task.uncancel()
            raise ClientGone("the reader took nothing for too long") from error

    def _fire(self) -> None:
        now = time.monotonic()
        left_s = self._stall_s / 10  # a send that begins meanwhile is noticed that late at most
        if self.sending_since is not None:
            left_s = self.sending_since + self._stall_s - now
            if left_s <= 0:
                self._stalled = True
                if self._task is not None:
                    self._task.cancel()
                return
        elif self._ping_s:
            silence_left_s = self.last_sent + self._ping_s - now
            if silence_left_s <= 0:
                self._on_silence()
                silence_left_s = self._ping_s
            left_s = min(left_s, silence_left_s)
        self._handle = self._loop.call_later(left_s, self._fire)
