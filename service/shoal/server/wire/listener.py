"""Listening sockets, whose options accepted ones inherit, and files for the connections."""

import contextlib
import os
import socket
from typing import NamedTuple

from shoal.config import Settings
from shoal.errors import ShoalError

PROBE_PLACES = 16
"""Connections beyond the limit, for probes alone."""
BACKLOG = 2048
"""Connections that may wait to be accepted: those of a burst."""
_SMALL_BACKLOG = 256
"""Fewer than this come at the cost of open connections, where files are few."""
_OWN_FILES = 64
"""Files kept for the process itself: an engine that is started again, model files, logs."""
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A peer that vanished while nothing is sent is noticed after 30 s. Not all systems have all."""


class Places(NamedTuple):
    """Connections that there are files for."""

    max_open: int
    backlog: int


def listen(settings: Settings, port: int | None = None) -> socket.socket:
    """Binds a socket to the server's port, or to the `port` of the probes. Raises ShoalError when
    it cannot be used."""
    flag = "--port" if port in (None, settings.port) else "--probe-port"
    port = settings.port if port is None else port
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Else the kernel holds megabytes for a reader that has stopped.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.socket_send_buffer)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only
        # Otherwise unsent data for a stalled or vanished client would be kept forever.
        stall_ms = int(settings.stream_stall_timeout * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
    try:
        listener.bind((settings.host, port))
    except OSError as error:
        listener.close()
        raise ShoalError(
            f"cannot listen on {settings.host}:{port} ({error.strerror}): "
            f"is another server running? Choose another with {flag}"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The address for a client on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def find_places(max_connections: int) -> Places:
    """Raises the limit of open files, as far as it may, and fits the connections in: so many that
    accepting all that wait at once leaves the process its own files."""
    files, in_use = _raise_file_limit(max_connections + PROBE_PLACES + BACKLOG), _num_open_files()
    if files is None:
        return Places(max_connections, BACKLOG)
    free = files - in_use - _OWN_FILES - PROBE_PLACES
    backlog = min(BACKLOG, free - max_connections)
    if backlog < _SMALL_BACKLOG:
        backlog = max(8, min(_SMALL_BACKLOG, free // 4))
    return Places(max(1, min(max_connections, free - backlog)), backlog)


def _raise_file_limit(num_files: int) -> int | None:
    """How many files this process may open now; None = no limit is known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    needed = num_files + _num_open_files() + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft


def _num_open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder))
    return 64
