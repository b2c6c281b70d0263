"""Starts a real server for a benchmark and reads what its processes cost, from /proc (Linux).

Knows nothing of what is measured; used by `bench_http.py` and `bench_start.py`.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(rb"serves on http://127\.0\.0\.1:(\d+)")
_MIB = 1 << 20


def launch(models: Sequence[str], *flags: str) -> subprocess.Popen[bytes]:
    """`shoal serve` on a free port; `models` as in --model. Not yet ready."""
    command = [sys.executable, "-m", "shoal", "serve", "--port", "0", "--log-level", "warning"]
    for model in models:
        command += ["--model", model]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    return subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, env=environment, cwd=ROOT)


def wait_until_ready(server: subprocess.Popen[bytes]) -> int:
    """The port, once the models are loaded. Ends the program when the server ends instead."""
    assert server.stdout is not None
    for line in server.stdout:
        if match := _READY.search(line):
            return int(match[1])
    raise SystemExit(f"the server ended with code {server.wait()}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and waits until its engine is gone too."""
    server.send_signal(signal.SIGINT)  # SIGTERM keeps it for shutdown_delay
    server.communicate()


@contextmanager
def serving(models: Sequence[str], *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A ready server process and its port."""
    server = launch(models, *flags)
    try:
        yield server, wait_until_ready(server)
    finally:
        stop(server)


def child_of(pid: int) -> int:
    """The engine's process id."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1, f"{len(children)} child processes"
    return int(children[0])


def cpu_s(pid: int) -> float:
    """CPU time of all threads so far, user and system, seconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def memory_mib(pid: int) -> tuple[float, float]:
    """(resident, proportional) MiB; the second counts a page shared by two processes half."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return sizes["Rss"] / _MIB, sizes["Pss"] / _MIB
