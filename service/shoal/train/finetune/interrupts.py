"""Ctrl-C and SIGTERM while a run trains: the first asks it to save, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run was asked to end and has saved; `number` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def noticed_signals(on_first: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the signal that came, or 0. `on_first` is called when it
    comes. Outside of the main thread, where no signals arrive, it always returns 0."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    came = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = number
        for each in _NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        on_first()

    before = {number: signal.signal(number, note) for number in _NUMBERS}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
