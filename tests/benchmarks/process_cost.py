"""Runs a program to its end and says what it cost (Linux). Knows nothing of what it does."""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.02
SHOWN_CHARACTERS = 3000
MIB = 1 << 20


class ProgramFailed(Exception):
    """It ended with another status than 0; the message has the end of what it said."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a program and its children."""

    wall_s: float
    cpu_s: float
    """User and system time."""
    peak_mib: float
    """Most resident memory at any time."""
    output: str
    """What it wrote to stdout and stderr."""


def run_measured(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None
) -> Cost:
    """Waits for the program. `environment`: on top of ours. Raises ProgramFailed."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
        peak = 0
        try:
            while True:
                # Looked at before waiting: what has ended is still there, with its highest mark.
                peak = max(peak, _resident_bytes(process.pid))
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                time.sleep(POLL_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise ProgramFailed(
            f"{' '.join(command)}: status {process.returncode}\n{text[-SHOWN_CHARACTERS:]}"
        )
    return Cost(wall_s, used.ru_utime + used.ru_stime, peak / MIB, text)


def _resident_bytes(pid: int) -> int:
    """The process's highest mark so far, or what it and its children have at the moment."""
    try:
        main = psutil.Process(pid)
        family = sum(_resident_of(each) for each in [main, *main.children(recursive=True)])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return max(family, int(line.split()[1]) * 1024)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return 0
    return family


def _resident_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
