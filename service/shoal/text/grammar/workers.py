"""The processes that compile grammars: started when needed, ended when one takes too long."""

import json
import os
import queue
import select
import subprocess
import sys
from typing import IO, Any

_START_S = 30.0


class Workers:
    """Up to `num` processes. `ask` may be called from as many threads."""

    def __init__(self, num: int, limit_s: float) -> None:
        """`limit_s`: wall time of one answer."""
        self._limit_s = limit_s
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for _ in range(num):
            self._idle.put(_Worker())

    def ask(self, line: str) -> dict[str, Any]:
        """What the worker says to a line of JSON; an error where it says nothing in time."""
        worker = self._idle.get()
        try:
            return worker.ask(line, self._limit_s)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, or none yet."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, line: str, limit_s: float) -> dict[str, Any]:
        process = self._process if self._process is not None else self._start()
        try:
            stdin, stdout = _pipes(process)
            stdin.write(line.encode() + b"\n")
            stdin.flush()
            if (answer := _read_line(stdout, limit_s)) is not None:
                return dict(json.loads(answer))
            problem = f"compiling it takes more than {limit_s:g} s"
        except (OSError, ValueError):
            problem = "compiling it takes too much memory"
        self._end(process)
        return {"error": problem + ": make it simpler", "path": "", "is_limit": True}

    def _start(self) -> "subprocess.Popen[bytes]":
        """In a session of its own: a signal to the server's group is not for it. It ends when its
        standard input does, so with this process."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "shoal.text.grammar.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _read_line(_pipes(process)[1], _START_S)
        return process

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = None
        process.kill()
        process.communicate()


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None, "it was started with a pipe"
    assert process.stdout is not None, "it was started with a pipe"
    return process.stdin, process.stdout


def _read_line(stdout: IO[bytes], limit_s: float) -> bytes | None:
    """None when there is no line in time. Raises OSError at the end of the stream."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if not select.select([stdout], [], [], limit_s)[0]:
            return None
        if not (data := os.read(stdout.fileno(), 1 << 16)):
            raise BrokenPipeError
        line += data
    return bytes(line)
