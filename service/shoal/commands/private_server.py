"""A server for one command: its own address and key, and an end with whoever started it.

`private_server` starts it as a child process on a free loopback port. The listening socket and one
end of a socket pair are handed down: nothing is written to disk, and connections wait in the socket
until the server takes them. The key is new, and goes over the pair: no other user of the machine
can see it, or use the server. The child has a session of its own, so Ctrl-C does not reach it; it
ends when the parent's end of the pair closes, however that came about (`engine/parent.py`).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import typer

HOST = "127.0.0.1"
_POLL_S = 0.02
_STOP_S = 3.0


class StartError(Exception):
    """The server ended before it was ready. `exit_code`: that of the server."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class PrivateServer:
    """A server that was started; it may still be loading its model."""

    url: str
    key: str
    _process: subprocess.Popen[bytes]
    _output: IO[bytes]

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Raises StartError with what the server said if it cannot serve."""
        port = int(self.url.rpartition(":")[2])
        while self._process.poll() is None:
            connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            connection.close()
            time.sleep(_POLL_S)
        raise StartError(self._what_it_said(), self._process.returncode)

    def _what_it_said(self) -> str:
        """Its last words, which are for people, else what else it wrote."""
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", "replace").strip().splitlines()
        words = [line.removeprefix("shoal: ") for line in lines if line.startswith("shoal: ")]
        return "\n".join(words or lines[-20:]) or "the server ended without a word"


@contextmanager
def private_server(model: str) -> Iterator[PrivateServer]:
    """Starts a server of one model, as `shoal serve` names it, and ends it with the block. Settings
    of the computation come from where `shoal serve` has them, those of access do not."""
    key = secrets.token_urlsafe(24)
    listener = socket.create_server((HOST, 0))
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as output:
        ours.sendall(key.encode() + b"\n")
        with listener, theirs:
            fds = (listener.fileno(), theirs.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, *map(str, fds), model],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=_environment(),
            )
            url = f"http://{HOST}:{listener.getsockname()[1]}"
        try:
            yield PrivateServer(url, key, process, output)
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    """The child imports this same copy of the package."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    joined = f"{package_parent}{os.pathsep}{path}" if path else package_parent
    return {**os.environ, "PYTHONPATH": joined}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and all that it started; its processes share a group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- the child ------------------------------------------------------------------------------------


def _settings(model: str, key: str) -> dict[str, Any]:
    """What is not taken from file or environment: who may call, and what there is to call."""
    return {
        "host": HOST, "port": 0, "probe_port": None, "page": False, "docs": False,
        "api_keys": [key], "keys_file": None, "admin_keys": [], "tenant_header": None,
        "allow_unauthenticated": False, "cors_origins": [], "apis": ["openai"],
        "models": [model], "adapters": [], "default_model": None,
        "shutdown_delay": 0.0, "drain_timeout": 0.0, "log_level": "error", "log_format": "text",
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """LISTENER_FD PARENT_FD MODEL; returns the exit code, which is as that of `shoal serve`."""
    from shoal.engine.parent import end_with_parent

    listener_fd, parent_fd, model = int(arguments[0]), int(arguments[1]), arguments[2]
    with socket.socket(fileno=os.dup(parent_fd)) as parent, parent.makefile("r") as lines:
        key = lines.readline().strip()
    end_with_parent(parent_fd, 0.0, 0)
    listener = socket.socket(fileno=listener_fd)
    from shoal.commands.local_models import why_unknown
    from shoal.commands.serve import checked_settings, serve_until_stopped

    try:
        settings = checked_settings(None, _settings(model, key))
        if (reason := why_unknown(model, settings.models_dir)) is not None:
            print(f"shoal: {reason}", file=sys.stderr)
            return 2
        serve_until_stopped(settings, listener)
    except typer.Exit as ended:
        return ended.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
