"""The boundary to the HTTP library: httpx, or httpx2 when the user passes such a client.

Both have the same classes under the same names, so it is enough to know which module a client
comes from. httpx is imported when the first client is made, not before.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ._connections import AsyncConnections, Connections
from ._errors import ConnectionFailed
from ._settings import Options, Settings

if TYPE_CHECKING:
    from typing import Self

ClientKind = Literal["Client", "AsyncClient"]
"""Class name of a client, the same in both libraries."""

# An idle connection is dropped before the server drops it (after 75 s), so that a new request
# does not meet a connection that is just being closed.
_KEEPALIVE_S = 60.0


@dataclass(frozen=True)
class Session:
    """Settings and connections of one client. Does no I/O itself.

    A client and its copies share all but `settings` and `owns_connections`, unless a copy needs
    connections of its own.
    """

    kind: ClientKind
    settings: Settings
    connections: Any  # `Connections`, or `AsyncConnections`
    library: ModuleType
    uds: str | None
    owns_connections: bool
    warned: set[str] = field(default_factory=set)  # ignored parameters, once warned about

    @property
    def runs_coroutines(self) -> bool:
        return self.kind == "AsyncClient"

    @classmethod
    def open(cls, kind: ClientKind, settings: Settings, http_client: Any, uds: str | None) -> Self:
        """Connections of its own, or the user's. Raises TypeError, ValueError, ConnectionFailed."""
        is_given = http_client is not None
        if is_given and uds is not None:
            raise ValueError("give uds or http_client, not both: the client has its own transport")
        make = None if is_given else partial(make_http_client, kind, settings.base_url, uds)
        http = http_client if make is None else make()
        library = library_of(type(http), kind)
        connections = (AsyncConnections if kind == "AsyncClient" else Connections)(http, make)
        return cls(kind, settings, connections, library, uds, owns_connections=not is_given)

    def changed(self, options: Options) -> Self:
        """A copy with other settings, on the same connections if those still fit."""
        settings = self.settings.changed(options)
        # Whether a proxy of the environment is used is fixed when connections are made.
        urls = (settings.base_url, self.settings.base_url)
        same_route = len({bypasses_proxy(url, self.uds) for url in urls}) == 1
        fits = same_route or not self.connections.are_ours
        if fits and not options.keys() & {"http_client", "uds"}:
            return replace(self, settings=settings, owns_connections=False)
        http_client: Any = options.get("http_client")
        uds = options.get("uds", None if "http_client" in options else self.uds)
        return replace(self.open(self.kind, settings, http_client, uds), warned=self.warned)


def library_of(client_type: type, kind: ClientKind) -> ModuleType:
    """The library a client's class is from. Raises TypeError for any other class."""
    for cls in client_type.__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("httpx", "httpx2") and cls.__name__ == kind:
            return sys.modules[root]
    raise TypeError(
        f"http_client must be an httpx.{kind} or an httpx2.{kind}; got {client_type.__name__}"
    )


def make_http_client(kind: ClientKind, base_url: str, uds: str | None) -> Any:
    """An httpx client with a connection pool of its own.

    Raises ConnectionFailed if the proxy variables of the environment cannot be used.
    """
    import httpx

    limits = httpx.Limits(
        max_connections=1000, max_keepalive_connections=100, keepalive_expiry=_KEEPALIVE_S
    )
    transport = None
    if bypasses_proxy(base_url, uds):
        transport_type = getattr(httpx, kind.replace("Client", "HTTPTransport"))
        transport = transport_type(uds=uds, limits=limits)
    try:
        return getattr(httpx, kind)(transport=transport, limits=limits)
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        given = ", ".join(sorted(name for name in os.environ if name.lower() in names))
        hint = "NO_PROXY takes an IPv6 address without brackets"
        if isinstance(error, ImportError):  # a SOCKS proxy needs one more package
            hint = str(error)
        # No other text of the library: it may quote a proxy's address with its password.
        raise ConnectionFailed(
            f"the proxy settings of the environment cannot be used ({given}): {hint}"
        ) from None


def bypasses_proxy(base_url: str, uds: str | None) -> bool:
    """Whether requests go straight to the server even if the environment names a proxy."""
    host = urlsplit(base_url).hostname or ""
    if uds is not None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


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
        pass  # already closed


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
    from shoal import __version__

    return f"shoal-python/{__version__}"
