"""One timer per stream: reports silence (for pings) and cancels a send that stalls.

Uses one event loop timer instead of a task or a timeout around each chunk. It costs nothing per
chunk: it compares two timestamps, and only when it fires.
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
        """`ping_s`: `on_silence` is called after this many seconds of silence, repeatedly;
        0 = never. `stall_s`: seconds one send may take before its task is cancelled."""
        self._ping_s = ping_s
        self._stall_s = stall_s
        self._on_silence = on_silence
        self._stalled = False
        self.last_sent = time.monotonic()
        self.sending_since: float | None = None
        """Monotonic start time of the send in progress, if any."""

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
        """Converts a cancellation by this timer to ClientGone."""
        self._handle.cancel()
        if self._stalled and isinstance(error, asyncio.CancelledError):
            assert self._task is not None, "the timer runs in a task"
            self._task.uncancel()
            raise ClientGone("the reader took nothing for too long") from error

    def _fire(self) -> None:
        now = time.monotonic()
        left_s = self._stall_s / 10  # upper bound on how late a new send is noticed
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
