"""Starts the engine process and restarts it when it exits.

Backs off 1, 2, 4 .. 60 s between starts. Stops restarting after 5 exits in 5 minutes, or at once
when the exit code says that a restart would fail the same way.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("shoal.engine")

EXIT_BAD_MODEL = 3
"""Exit code of an engine that would fail the same way after a restart."""
MAX_EXITS = 5
EXIT_WINDOW_S = 300.0
MAX_PAUSE_S = 60.0
STOP_WAIT_S = 2.0
SOCKET_BUFFER_BYTES = 4 << 20
_SECRETS = frozenset({"SHOAL_API_KEYS", "SHOAL_ADMIN_KEYS", "SHOAL_API_KEY", "OPENAI_API_KEY"})
"""Variables that hold keys, which no engine needs."""


class Supervisor:
    """Owns the engine's child process."""

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        on_exit: Callable[[int, bool], None],
        *,
        command: tuple[str, ...] = (sys.executable, "-m", "shoal.engine.process"),
    ) -> None:
        """`protocol_factory` makes the server's end of the connection for each child. `on_exit` is
        called with (exit code, True if the engine will not be restarted)."""
        self._protocol_factory = protocol_factory
        self._on_exit = on_exit
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._failed_starts = 0

    @property
    def pid(self) -> int | None:
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Starts the engine and the task that restarts it."""
        await self._spawn()
        self._watcher = asyncio.create_task(self._watch(), name="engine-supervisor")

    def came_up(self) -> None:
        """The engine is serving: resets the restart backoff."""
        self._failed_starts = 0

    def kill_hung(self) -> None:
        """Kills an engine that does not respond; SIGABRT makes it log its stacks first."""
        if self._process is not None and self._process.returncode is None:
            log.error("engine does not respond, killing it", extra={"pid": self._process.pid})
            self._process.send_signal(signal.SIGABRT)
            asyncio.get_running_loop().call_later(STOP_WAIT_S, _kill, self._process)

    async def stop(self) -> None:
        """Stops the engine and waits for it to exit."""
        self._stopping.set()
        if self._transport is not None:
            self._transport.close()  # the engine exits when its connection closes
        if self._process is not None and self._process.returncode is None:
            asyncio.get_running_loop().call_later(STOP_WAIT_S, _kill, self._process)
        if self._watcher is not None:
            await self._watcher

    async def _watch(self) -> None:
        exits: deque[float] = deque(maxlen=MAX_EXITS)
        while self._process is not None:
            code = await self._process.wait()
            exits.append(time.monotonic())
            crash_loop = len(exits) == MAX_EXITS and exits[-1] - exits[0] < EXIT_WINDOW_S
            is_final = crash_loop or code == EXIT_BAD_MODEL
            if not self._stopping.is_set():
                log.error("engine process exited", extra={"exit_code": code})
            self._on_exit(code, is_final)
            if self._stopping.is_set() or is_final:
                return
            backoff_s = min(MAX_PAUSE_S, 2.0**self._failed_starts)
            self._failed_starts += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)
                return
            try:
                await self._spawn()
            except OSError:  # out of processes, file descriptors or memory
                log.exception("the engine cannot be restarted")
                self._on_exit(code, True)
                return

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=_child_environment(),
            )
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(self._protocol_factory, sock=ours)


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills this process, not `self._process`: a new engine may already be running."""
    if process.returncode is None:
        process.kill()


def _child_environment() -> dict[str, str]:
    """Environment in which the child imports this same copy of the package, and its threads share
    one heap: what loading a model took for a moment can then be given back to the system."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return {
        "MALLOC_ARENA_MAX": "1",
        **inherited,
        "PYTHONPATH": f"{package_parent}{os.pathsep}{path}" if path else package_parent,
        "PYTHONFAULTHANDLER": "1",
    }
