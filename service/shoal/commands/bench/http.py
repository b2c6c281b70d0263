"""A minimal HTTP/1.1 client for load generation: one request at a time on one connection.

The load generator shares CPU cores with the server under test, so this client does little work: no
header objects, no buffering of streams, timestamps taken in `data_received`. No JSON or SSE here.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal
from urllib.parse import urlsplit

Clock = Callable[[], float]
StreamSink = Callable[[bytes, float], None]  # decoded body bytes, arrival time in seconds
FailureKind = Literal["connect_failed", "connection_closed", "stream_cut", "protocol_error"]


class ExchangeFailed(Exception):
    """No complete response was received; `kind` is the name used in error counts."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Address:
    """Base URL of the server. `path` is the prefix of every route, without a trailing slash."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True for addresses of this machine; host names other than localhost are not resolved and
        count as remote."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(url: str) -> Address:
    """Read a base URL, with or without a trailing /v1. Raises ValueError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an address like http://127.0.0.1:8000")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.scheme, parts.hostname, port, path)


@dataclass(slots=True)
class Response:
    """A response; `body` is empty for an event stream, which is passed to the sink."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes = b""

    @property
    def is_event_stream(self) -> bool:
        return self.status == 200 and "text/event-stream" in self.headers.get("content-type", "")


def render_request(
    address: Address, method: str, route: str, body: bytes, *, api_key: str, keep_alive: bool
) -> bytes:
    lines = [
        f"{method} {address.path}{route} HTTP/1.1",
        f"Host: {address.authority}",
        "Accept: */*",
        "Accept-Encoding: identity",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class ChunkedDecoder:
    """Incremental decoder of chunked transfer encoding. `done` after the last chunk."""

    __slots__ = ("_in_chunk", "_remaining", "_tail", "_trailer", "done")

    def __init__(self) -> None:
        self._tail = b""  # an incomplete size line or line end
        self._remaining = 0  # bytes of the current chunk still to come
        self._in_chunk = False  # the line end after the current chunk is still to come
        self._trailer = False
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Body bytes in `data`. Raises ValueError for a size that is not hexadecimal."""
        data = self._tail + data
        pieces, start = [], 0
        while True:
            if self._remaining:
                piece = data[start : start + self._remaining]
                pieces.append(piece)
                start += len(piece)
                self._remaining -= len(piece)
            if self._remaining or (self._in_chunk and len(data) - start < 2):
                break
            if self._in_chunk:
                start, self._in_chunk = start + 2, False
            end = data.find(b"\r\n", start)
            if end < 0:
                break
            line, start = data[start:end], end + 2
            if self._trailer:
                if not line:
                    self.done = True
                    break
                continue
            self._remaining = int(line.split(b";", 1)[0], 16)
            self._trailer = self._remaining == 0
            self._in_chunk = not self._trailer
        self._tail = data[start:]
        return b"".join(pieces)


class Connection(asyncio.Protocol):
    """One connection, opened when needed and kept open if both sides allow it."""

    def __init__(self, address: Address, clock: Clock = perf_counter) -> None:
        self._address = address
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._sink: StreamSink = _discard
        self._reset()

    async def exchange(self, request: bytes, sink: StreamSink | None = None) -> Response:
        """Send one request; return when the response has ended. Raises ExchangeFailed."""
        transport = await self._connect()
        self._reset()
        self._sink = sink or _discard
        self._waiter = asyncio.get_running_loop().create_future()
        transport.write(request)
        try:
            response = await self._waiter
        except BaseException:  # cancelled or failed: the connection may hold the rest of a response
            self.close()
            raise
        finally:
            self._waiter = None
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _connect(self) -> asyncio.Transport:
        if self._transport is not None and not self._transport.is_closing():
            return self._transport
        context = ssl.create_default_context() if self._address.scheme == "https" else None
        try:
            self._transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: self, self._address.host, self._address.port, ssl=context
            )
        except OSError as error:
            raise ExchangeFailed("connect_failed", str(error)) from error
        return self._transport

    def _reset(self) -> None:
        self._head = b""
        self._response: Response | None = None
        self._pieces: list[bytes] = []
        self._chunks: ChunkedDecoder | None = None
        self._remaining: int | None = None  # body bytes to come; None = chunked or until close

    # --- called by the event loop -------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        if self._waiter is None or self._waiter.done():
            return
        try:
            if self._response is None:
                data = self._parse_head(data)
            if self._response is not None:
                self._parse_body(self._response, data, now)
        except ValueError as error:
            self._fail("protocol_error", f"the response is not HTTP/1.1: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._response is None:
            self._fail("connection_closed", "connection closed before an answer")
        elif self._chunks is None and self._remaining is None and exc is None:
            self._finish(self._response)  # a body without a length ends when the connection closes
        else:
            self._fail("stream_cut", "connection closed inside the answer")

    # --- parsing --------------------------------------------------------------------------------

    def _parse_head(self, data: bytes) -> bytes:
        head, blank, rest = (self._head + data).partition(b"\r\n\r\n")
        if not blank:
            self._head = head
            return b""
        first, *lines = head.decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1."):
            raise ValueError(f"it begins with {first[:20]!r}")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._response = Response(int(first.split(" ", 2)[1]), headers)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = ChunkedDecoder()
        elif "content-length" in headers:
            self._remaining = int(headers["content-length"])
        return rest

    def _parse_body(self, response: Response, data: bytes, now: float) -> None:
        ended = False
        if self._chunks is not None:
            data = self._chunks.feed(data)
            ended = self._chunks.done
        elif self._remaining is not None:
            self._remaining -= len(data)
            ended = self._remaining <= 0
        if data:
            if response.is_event_stream:
                self._sink(data, now)
            else:
                self._pieces.append(data)
        if ended:
            self._finish(response)

    def _finish(self, response: Response) -> None:
        response.body = b"".join(self._pieces)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(response)

    def _fail(self, kind: FailureKind, message: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ExchangeFailed(kind, message))


def _discard(data: bytes, now: float) -> None:
    """Sink that discards the stream."""
