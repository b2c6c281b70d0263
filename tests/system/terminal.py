"""`shoal` as a real process, in pipes and on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SERVICE = str(ROOT / "service")
SHOAL = [sys.executable, "-m", "shoal"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def environment(**variables: str) -> dict[str, str]:
    """What a process gets: nothing of the one that runs the tests but the path."""
    given = {"PYTHONPATH": SERVICE, "PATH": os.environ["PATH"], "PYTHONUTF8": "1", "TERM": "dumb"}
    return {**given, "OMP_NUM_THREADS": "1", **variables}


def shoal(
    *args: str, text: str = "", cwd: Path | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, between pipes."""
    return subprocess.run(
        [*SHOAL, *args],
        input=text,
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
    )


class Terminal:
    """A process on a pseudo-terminal, and what it has written so far."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.seen = ""
        self.exit_code: int | None = None

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Reads until `text` was written after everything waited for before; returns what came
        in front of it."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            assert self._read(left) or text in self.seen, f"ended without {text!r}: {self.seen!r}"
        before, self.seen = self.seen.split(text, 1)
        return before

    def wait_for_prompt(self, prompt: str = "› ") -> str:
        """The same for the prompt, until keys and signals reach line editing: it has taken the
        terminal over, and sleeps."""
        before = self.wait_for(prompt)
        deadline = time.monotonic() + 30
        while (
            termios.tcgetattr(self.fd)[3] & termios.ICANON
            or psutil.Process(self.pid).status() != psutil.STATUS_SLEEPING
        ):
            assert time.monotonic() < deadline, "line editing does not begin"
            time.sleep(0.005)
        return before

    def wait(self, timeout_s: float = 30.0) -> int:
        """Reads until the process ends; returns its exit code, minus a signal's number."""
        deadline = time.monotonic() + timeout_s
        while self.exit_code is None:
            assert time.monotonic() < deadline, f"does not end: {self.seen!r}"
            self._read(0.05)
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                while self._read(0.05):
                    pass
                self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.exit_code

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def echoes(self) -> bool:
        """Does the terminal show what is typed?"""
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def resize(self, columns: int, rows: int = 24) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, timeout_s: float) -> bool:
        """False where nothing came."""
        try:
            if not select.select([self.fd], [], [], timeout_s)[0]:
                return False
            data = os.read(self.fd, 65536)
        except OSError:  # the other side is closed
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def on_terminal(
    *args: str, columns: int = 80, cwd: Path | None = None, **variables: str
) -> Iterator[Terminal]:
    """A command on a terminal of this width; killed at the end of the block."""
    pid, fd = pty.fork()
    if pid == 0:
        if cwd is not None:
            os.chdir(cwd)
        os.execve(SHOAL[0], [*SHOAL, *args], environment(**variables))
    terminal = Terminal(pid, fd)
    terminal.resize(columns)
    try:
        yield terminal
    finally:
        if terminal.exit_code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(fd)


def all_end(processes: list[psutil.Process], timeout_s: float = 15.0) -> bool:
    """Whether they all end within the time."""
    return not psutil.wait_procs(processes, timeout_s)[1]


def without_escapes(text: str) -> str:
    return ESCAPES.sub("", text)
