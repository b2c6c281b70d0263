"""Processes for hostile work (`child.py`): started when needed, ended when one takes too long."""

import json
import os
import queue
import select
import signal
import subprocess
import sys
from typing import IO, Any

_START_S = 30.0
_END_S = 1.0


class WorkerEnded(Exception):
    """There is no answer: the process took too long, or more memory than it may have."""

    def __init__(self, *, took_too_long: bool) -> None:
        super().__init__("too long" if took_too_long else "too much memory")
        self.took_too_long = took_too_long


class Workers:
    """Up to `num` processes. `ask` may be called from as many threads; more of them wait."""

    def __init__(self, module: str, num: int, limit_s: float) -> None:
        """`module`: what a process runs; `limit_s`: wall time of one answer."""
        self._limit_s = limit_s
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for _ in range(num):
            self._idle.put(_Worker(module))

    def ask(self, line: str) -> dict[str, Any]:
        """What a process says to a line of JSON. Raises WorkerEnded."""
        worker = self._idle.get()
        try:
            return worker.ask(line, self._limit_s)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, or none yet."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, line: str, limit_s: float) -> dict[str, Any]:
        process = self._running()
        try:
            stdin, stdout = _pipes(process)
            stdin.write(line.encode() + b"\n")
            stdin.flush()
            if (answer := _read_line(stdout, limit_s)) is not None:
                return dict(json.loads(answer))
            took_too_long = True
        except (OSError, ValueError):
            took_too_long = False
        self._end(process, at_once=took_too_long)
        out_of_time = process.returncode == -getattr(signal, "SIGPROF", 0)
        raise WorkerEnded(took_too_long=took_too_long or out_of_time)

    def _running(self) -> "subprocess.Popen[bytes]":
        """One that somebody else ended meanwhile is no fault of the next request."""
        if self._process is not None and self._process.poll() is not None:
            self._end(self._process)
        return self._process if self._process is not None else self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        """In a session of its own: a signal to the server's group is not for it. It ends when its
        standard input does, so with this process."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _read_line(_pipes(process)[1], _START_S)
        return process

    def _end(self, process: "subprocess.Popen[bytes]", *, at_once: bool = True) -> None:
        """`at_once`: it does not end by itself. Otherwise its return code says why it did."""
        self._process = None
        try:
            process.wait(0 if at_once else _END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None, "it was started with a pipe"
    assert process.stdout is not None, "it was started with a pipe"
    return process.stdin, process.stdout


def _read_line(stdout: IO[bytes], limit_s: float) -> bytes | None:
    """None when there is no line in time. Raises OSError at the end of the stream."""
    poll = select.poll()  # takes file numbers above 1023, as select() does not
    poll.register(stdout, select.POLLIN)
    line = bytearray()
    while not line.endswith(b"\n"):
        if not poll.poll(limit_s * 1000):
            return None
        if not (data := os.read(stdout.fileno(), 1 << 16)):
            raise BrokenPipeError
        line += data
    return bytes(line)
