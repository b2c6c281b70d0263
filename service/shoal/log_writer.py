"""Writes log lines from a thread, so that nobody waits for whoever reads standard error.

What waits is bounded: lines beyond it, and lines that a full disk refuses, are dropped and counted,
and a line says how many once writing works again. Standard error itself becomes a pipe to the same
thread, so that tracebacks, what libraries print and child processes' lines go the same way.
"""

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable

MAX_WAITING_BYTES = 4 << 20
MAX_LINE_BYTES = 16 << 10
"""Of a line that comes over standard error; a longer one is cut in pieces."""
_BATCH_S = 0.02
"""Lines are collected for so long: one wake-up of the thread writes many."""
_WRITE_BYTES = 64 << 10
_CLOSE_S = 1.0
_END = b"\0end of the log\n"


class LogWriter:
    """A bounded queue of lines, and the thread that writes them to a file descriptor."""

    def __init__(
        self, fd: int, notice: Callable[[int], str], max_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        """`notice` makes the line that says how many were dropped."""
        self._fd = fd
        self._notice = notice
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._num_bytes = 0
        self._num_dropped = 0
        self._num_told = 0
        """Of those dropped."""
        self._lock = threading.RLock()  # a signal's handler may log in the middle of `put`
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        """Lines that were not written."""
        return self._num_dropped

    def put(self, line: str) -> None:
        """Never waits for the reader."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._num_bytes + len(data) > self._max_bytes:
                self._num_dropped += 1
                return
            self._lines.append(data)
            self._num_bytes += len(data)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout_s: float = _CLOSE_S) -> bool:
        """Writes what waits, but for no longer than `timeout_s`. False if lines are left: then the
        thread may be waiting for the reader for ever, and is left alone."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._closing.wait(_BATCH_S)
            self._wake.clear()
            while batch := self._take():
                if not _write_all(self._fd, b"".join(batch)):
                    with self._lock:
                        self._num_dropped += len(batch)
            self._tell_dropped()
            if self._closing.is_set() and not self._lines:
                return

    def _take(self) -> list[bytes]:
        """Some of the lines that wait."""
        batch: list[bytes] = []
        size = 0
        with self._lock:
            while self._lines and size < _WRITE_BYTES:
                batch.append(self._lines.popleft())
                size += len(batch[-1])
            self._num_bytes -= size
        return batch

    def _tell_dropped(self) -> None:
        count = self._num_dropped - self._num_told
        if count and _write_all(self._fd, self._notice(count).encode() + b"\n"):
            self._num_told += count


class StderrPipe:
    """While it is open, what is written to standard error comes line by line to a function."""

    def __init__(self, take_line: Callable[[str], None]) -> None:
        self._take_line = take_line
        sys.stderr.flush()
        self._out, into = os.pipe()
        os.dup2(into, 2)  # children inherit it
        os.close(into)
        self._has_ended = threading.Event()
        threading.Thread(target=self._read, name="stderr-reader", daemon=True).start()

    def end(self) -> None:
        """Waits until every line was handed on; no more are."""
        sys.stderr.flush()
        os.write(2, _END)
        self._has_ended.wait(_CLOSE_S)

    def _read(self) -> None:
        try:
            self._read_lines()
        finally:  # whoever still writes gets an error instead of waiting
            os.close(self._out)
            self._has_ended.set()

    def _read_lines(self) -> None:
        rest = b""
        has_ended = False
        while not has_ended and (data := os.read(self._out, _WRITE_BYTES)):
            *lines, rest = (rest + data).split(b"\n")
            if has_ended := bool(lines) and lines[-1].endswith(_END[:-1]):
                lines[-1] = lines[-1].removesuffix(_END[:-1])
            while len(rest) > MAX_LINE_BYTES:
                lines.append(rest[:MAX_LINE_BYTES])
                rest = rest[MAX_LINE_BYTES:]
            for line in filter(None, lines):
                self._take_line(line.decode("utf-8", "backslashreplace"))


def would_wait(fd: int) -> bool:
    """Would a short line have to wait for the reader?"""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return not any(events & select.POLLOUT for _, events in poll.poll(0))


def _write_all(fd: int, data: bytes) -> bool:
    """False when it cannot be written: the disk is full, the reader is gone."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        return False
    return True
