"""The border to the HTTP library: httpx, or httpx2 when the caller brings such a client.

Both have the same classes under the same names, so the module a client comes from is all that
is kept. Neither is imported before a client is made.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict
from urllib.parse import urlsplit

from ._errors import ConnectionFailed, Error, ResponseInvalid, Timeout, TimeoutPhase

if TYPE_CHECKING:
    import httpx


class _Pool(TypedDict):
    max_connections: int
    max_keepalive_connections: int
    keepalive_expiry: float


# Seconds idle: less than the server's 75, so that it does not hang up on a new request.
_POOL: _Pool = {
    "max_connections": 1000,
    "max_keepalive_connections": 100,
    "keepalive_expiry": 60.0,
}


class SyncHTTP(Protocol):
    """What is used of `httpx.Client` and `httpx2.Client`. Any: two libraries' own types."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None, headers: Any, timeout: Any
    ) -> Any: ...

    def send(self, request: Any, *, stream: bool) -> Any: ...

    def close(self) -> None: ...


class AsyncHTTP(Protocol):
    """The same of `httpx.AsyncClient` and `httpx2.AsyncClient`."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None, headers: Any, timeout: Any
    ) -> Any: ...

    async def send(self, request: Any, *, stream: bool) -> Any: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class SocketLimits:
    """Seconds an HTTP library may wait in each phase; None = for ever."""

    connect: float | None
    read: float | None
    """For the head of the answer."""
    read_body: float | None
    write: float | None
    pool: float | None

    def as_tuple(self) -> tuple[float | None, float | None, float | None, float | None]:
        """In the order of both libraries' `timeout=`."""
        return self.connect, self.read, self.write, self.pool


def library_of(client_type: type, kind: Literal["Client", "AsyncClient"]) -> ModuleType:
    """The library a client's class is from. Raises TypeError for any other class."""
    for cls in client_type.__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("httpx", "httpx2") and cls.__name__ == kind:
            return sys.modules[root]
    raise TypeError(
        f"http_client must be an httpx.{kind} or an httpx2.{kind}; got {client_type.__name__}"
    )


def make_sync_http(base_url: str, uds: str | None) -> httpx.Client:
    """A client with a pool of its own."""
    import httpx

    limits = httpx.Limits(**_POOL)
    direct = httpx.HTTPTransport(uds=uds, limits=limits) if is_direct(base_url, uds) else None
    return httpx.Client(transport=direct, limits=limits)


def make_async_http(base_url: str, uds: str | None) -> httpx.AsyncClient:
    """The same, asynchronous."""
    import httpx

    limits = httpx.Limits(**_POOL)
    direct = httpx.AsyncHTTPTransport(uds=uds, limits=limits) if is_direct(base_url, uds) else None
    return httpx.AsyncClient(transport=direct, limits=limits)


def limit_body_reads(request: Any, seconds: float | None) -> None:
    """Changes the read limit once the head has arrived: both libraries look it up again when
    they begin with the body."""
    limits = request.extensions.get("timeout")
    if isinstance(limits, dict):
        limits["read"] = seconds


def cut_connection(response: Any) -> None:
    """Ends the response's connection at once, even while another thread waits for its bytes.

    Closing a socket does not wake a thread that reads from it; shutting it down does.
    """
    import socket

    stream = response.extensions.get("network_stream")
    if stream is None or response.http_version != "HTTP/1.1":
        return  # in memory, or a connection that other streams share
    connection = stream.get_extra_info("socket")
    if connection is None:
        return
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already gone, which is what is wanted


@contextmanager
def translated(
    library: ModuleType,
    limits: SocketLimits,
    *,
    reading: Literal["first_byte", "between_data", "total"],
    request_id: str,
    server: str,
) -> Iterator[None]:
    """Turns the library's exceptions into ours. `reading` names the limit of a read."""
    try:
        yield
    except library.TimeoutException as error:
        raise _timeout(library, error, limits, reading, request_id, server) from error
    except library.TransportError as error:
        reason = str(error) or type(error).__name__
        raise ConnectionFailed(
            f"connection to {server} failed: {reason}", request_id=request_id
        ) from error
    except library.RequestError as error:  # undecodable body, endless redirects
        raise ResponseInvalid(
            f"answer of {server} cannot be read: {error}", request_id=request_id
        ) from error


def _timeout(
    library: ModuleType,
    error: Exception,
    limits: SocketLimits,
    reading: Literal["first_byte", "between_data", "total"],
    request_id: str,
    server: str,
) -> Error:
    phase: TimeoutPhase = reading
    limit_s = limits.read_body if reading == "between_data" else limits.read
    if isinstance(error, library.ConnectTimeout):
        phase, limit_s = "connect", limits.connect
    elif isinstance(error, library.PoolTimeout):
        phase, limit_s = "pool", limits.pool
    elif isinstance(error, library.WriteTimeout):
        phase, limit_s = "send", limits.write
    return timed_out(phase, limit_s, server=server, request_id=request_id)


_WHAT_TOOK_LONG: dict[TimeoutPhase, str] = {
    "connect": "no connection to {server}",
    "pool": "no free connection to {server}",
    "send": "{server} did not take the request",
    "first_byte": "no answer from {server}",
    "between_data": "no data from {server}",
    "total": "no complete answer from {server}",
}


def timed_out(
    phase: TimeoutPhase, limit_s: float | None, *, server: str, request_id: str | None
) -> Timeout:
    """The error for a limit that ran out."""
    what = _WHAT_TOOK_LONG[phase].format(server=server)
    within = "in time" if limit_s is None else f"within {limit_s:.3g} s"
    return Timeout(f"{what} {within}", phase=phase, limit_s=limit_s, request_id=request_id)


def merge_headers(*layers: Mapping[str, str | None]) -> dict[str, str]:
    """Later layers win, whatever the case of a name; a value of None removes the header.

    Raises ValueError for a value that would break the request, without showing it.
    """
    merged: dict[str, tuple[str, str | None]] = {}
    for layer in layers:
        for name, value in layer.items():
            if value is not None and not (value.isascii() and value.isprintable()):
                raise ValueError(f"header {name!r} must be printable ASCII")
            merged[name.lower()] = (name, value)
    return {name: value for name, value in merged.values() if value is not None}


@cache
def user_agent() -> str:
    """Our name and version, for the server's log."""
    try:
        return f"shoal-python/{version('shoal')}"
    except PackageNotFoundError:  # a checkout on the path has no package metadata
        return "shoal-python"


@dataclass
class Warned:
    """Names of ignored parameters that were warned about, shared by a client and its copies."""

    names: set[str] = field(default_factory=set)

    def first_time(self, name: str) -> bool:
        new = name not in self.names
        self.names.add(name)
        return new


def is_direct(base_url: str, uds: str | None) -> bool:
    """Whether a proxy named in the environment must not see the requests."""
    host = urlsplit(base_url).hostname or ""
    if uds is not None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
