"""Starts one server, waits for its first token, weighs its processes and always ends them.

Knows commands and process ids (Linux); what a server is, the modules of the peers say.
"""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shoal.commands.bench.http import Address
from shoal.commands.bench.load import LoadClient, Workload

from .shapes import Shape

READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.005
MIB = 1 << 20


class Unavailable(Exception):
    """A peer cannot run here; the message says why."""


class ServerFailed(Exception):
    """A server ended or never answered; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Command:
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)  # on top of ours


@dataclass(frozen=True, slots=True)
class Contender:
    """One server with one kind of weights. `command` takes the shape and how many sequences
    are held at once; `per_level`: the server is started anew with as many slots as clients."""

    name: str
    family: str
    weights: str
    command: Callable[[Shape, int], Command]
    per_level: bool = False
    keep_alive: bool = True  # False for servers that close after each streamed answer anyway
    settings: str = ""


@dataclass(slots=True)
class Running:
    """A started server. `log` is its output so far."""

    process: subprocess.Popen[bytes]
    address: Address
    log: Path
    started_at: float

    def memory_mib(self) -> float:
        """Proportional set size of all its processes together."""
        pss = sum(process.memory_full_info().pss for process in self._processes())
        return float(pss) / MIB

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def end_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-1500:]


@contextmanager
def running(command: Command) -> Iterator[Running]:
    """The command as a process of its own group, with `{port}` replaced by a free port."""
    port = _free_port()
    argv = [part.replace("{port}", str(port)) for part in command.argv]
    with tempfile.NamedTemporaryFile(prefix="peer-", suffix=".log") as log:
        started_at = time.perf_counter()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
        server = Running(process, Address("http", "127.0.0.1", port), Path(log.name), started_at)
        try:
            yield server
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, then SIGKILL to whatever is left of its family and group."""
    family: list[psutil.Process] = []
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)
    except (psutil.NoSuchProcess, subprocess.TimeoutExpired):
        pass  # gone already, or deaf: both end below
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nobody is left
    for child in family:
        if child.is_running():  # the same process, not a new one with its number
            child.kill()
    process.wait()
    psutil.wait_procs(family, STOP_TIMEOUT_S)  # the next server finds the machine free


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def first_token(server: Running, work: Workload) -> float:
    """Seconds from the start of the process to its first answered token. Asks again and again,
    as early as the server listens. Raises ServerFailed."""
    client = LoadClient(work)
    try:
        while time.perf_counter() - server.started_at < READY_TIMEOUT_S:
            record = await client.send("first", 1)
            if record.error is None:
                arrived = record.token_times[0] if record.token_times else record.ended_at
                return arrived - server.started_at
            if server.process.poll() is not None or record.error.startswith("4"):
                break
            await asyncio.sleep(POLL_S)
    finally:
        client.close()
    raise ServerFailed(f"no token ({record.error}):\n{server.end_of_log()}")
