"""One connection: uvicorn's protocol class with limits on what comes in and a proper way out.

Counts the raw bytes of a message before its parser has the whole of it, and answers itself what the
app will never see. A mixin; `httptools_protocol.py` and `h11_protocol.py` tell it what their parser
has found.
"""

import asyncio
import math
import uuid
from typing import TYPE_CHECKING, Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import RequestTooLarge, ShoalError, Unavailable
from shoal.server.auth import OPEN_PATHS
from shoal.server.errors import error_bytes, error_headers
from shoal.server.wire.limits import MAX_FRAMING_BYTES, Header, malformed, refusal
from shoal.server.wire.peer import has_vanished
from shoal.server.wire.transport import PoliteTransport

if TYPE_CHECKING:
    from shoal.server.wire.connections import Connections

WIRE = "shoal.wire"
"""Key of the connection in a request's scope."""
HIGH_WATER_BYTES = 16 << 10
"""A reader that is so far behind is waited for."""
LINGER_S = 2.0
MAX_LINGER_BYTES = 4 << 20
"""How long, and how much of what the client still sends, is read after a refusal: until it has the
answer. Then the connection is reset."""
SMALL_REST_BYTES = 64 << 10
"""A body of which no more is missing is read after an early answer, and the connection kept."""
VANISHED_S = 30.0
"""A machine that acknowledges nothing of an answer for so long is gone."""
NEVER = math.inf
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 413: b"Content Too Large",
            414: b"URI Too Long", 431: b"Request Header Fields Too Large",
            503: b"Service Unavailable", 505: b"HTTP Version Not Supported"}  # fmt: skip


class Refused(Exception):
    """Ends the parser's work on a message that is refused."""


class GuardedConnection:
    """To be put before one of uvicorn's protocol classes."""

    if TYPE_CHECKING:  # uvicorn's
        app: Any
        cycle: Any
        flow: Any
        loop: asyncio.AbstractEventLoop
        transport: Any

    def __init__(self, *args: Any, guard: "Connections", **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard = guard
        self._limits = guard.limits
        self._max_head = guard.limits.head
        self._inner: ASGIApp = self.app
        self.app = self._call_app
        self._raw: asyncio.Transport
        self._refusal: ShoalError | None = None
        self._in_body = False
        self._num_bytes = 0  # of the message so far, as they came
        self._piece_bytes = 0  # of the piece that is being parsed
        self._body_bytes = 0
        self._body_length: int | None = None  # declared
        self._num_messages = 0
        self._deaf = False  # what comes in is thrown away
        self._deadline = NEVER  # of the head or the body, then of lingering
        self._unsent = 0  # bytes, when the guard last looked
        self._unsent_since = 0.0
        self.in_reserve = False
        """There are too many connections: this one is for probes only."""

    # --- uvicorn's interface ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = raw = cast(asyncio.Transport, transport)
        raw.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        super().connection_made(PoliteTransport(raw, self._close))  # type: ignore[misc]
        self._deadline = self.loop.time() + self._limits.header_timeout
        self._guard.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)  # type: ignore[misc]
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]
        self._guard.remove(self)
        self._deaf = True
        self.transport.detach()
        self.app, self.cycle = self._inner, None

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]
        while data and not self._deaf:
            # One more than may be, so that too many are noticed.
            room = len(data) if self._in_body else self._max_head + 1 - self._num_bytes
            piece, data = (data, b"") if len(data) <= room else (data[:room], data[room:])
            self._take(piece)
        if self._deaf:
            self._num_bytes += len(data)
            if self._num_bytes > MAX_LINGER_BYTES:
                self._raw.abort()
        elif self._deadline == NEVER and (self._in_body or self._num_bytes):
            self._start_clock()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade may be ignored, and is."""

    # --- the message that comes in ---------------------------------------------------------------

    def _parse(self, piece: bytes) -> None:
        """Feeds the parser; `refuse`s what it cannot parse."""
        raise NotImplementedError

    @property
    def _is_parsing(self) -> bool:
        """False while what comes in waits for the answer before it."""
        return True

    def _take(self, piece: bytes) -> None:
        before = self._num_messages
        self._piece_bytes = len(piece)
        self._parse(piece)
        if self._num_messages != before or self._deaf or not self._is_parsing:
            return
        self._num_bytes += len(piece)
        if self._in_body:
            framing = self._num_bytes - self._body_bytes - self._max_head
            if framing > MAX_FRAMING_BYTES + self._body_bytes // 8:
                self.refuse(RequestTooLarge("the body comes in too many, too small chunks"))
        elif self._num_bytes > self._max_head:
            limits = self._limits
            in_url = self._target_bytes() > limits.url
            self.refuse(limits.url_too_long() if in_url else limits.headers_too_large())

    def _target_bytes(self) -> int:
        """Bytes of the URL so far, at least."""
        raise NotImplementedError

    def _head_came(self, target: bytes, version: str, headers: list[Header]) -> None:
        """The parser has a whole head. Raises Refused, and knows the `_refusal`."""
        num_bytes = self._num_bytes + self._piece_bytes
        try:
            length = self._limits.check_head(target, version, headers, num_bytes)
            if self.in_reserve and target.partition(b"?")[0].decode("latin-1") not in OPEN_PATHS:
                raise too_many_connections()
        except ShoalError as error:
            self._refusal = error
            raise Refused from error
        self._in_body, self._body_bytes, self._body_length = True, 0, length
        self._deadline = NEVER
        self._guard.touch(self)

    def _message_came(self) -> None:
        """The parser has a whole message."""
        self._num_messages += 1
        self._in_body, self._num_bytes = False, 0
        self._deadline = NEVER

    def _start_clock(self) -> None:
        limits = self._limits
        if self._in_body:
            self._deadline = self.loop.time() + limits.body_timeout
        elif not self._is_answering:
            self._deadline = self.loop.time() + limits.header_timeout

    # --- the answer ------------------------------------------------------------------------------

    def _call_app(self, scope: Any, receive: Receive, send: Send) -> Any:
        scope[WIRE] = self
        return self._inner(scope, receive, send)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_idle(self) -> bool:
        """Nothing is asked, or not yet all of it."""
        return not (self._is_answering or self._deaf)

    def closes_after(self, scope: Scope) -> bool:
        """Must this request's answer, which is about to begin, be the last of the connection? So it
        must when the client is not done: it would send its body for nothing, or wait to do so."""
        if not self._in_body or self.cycle is None or self.cycle.scope is not scope:
            return False
        if self.cycle.waiting_for_100_continue or self._body_length is None:
            return True
        return self._body_length - self._body_bytes > SMALL_REST_BYTES

    def refuse(self, error: ShoalError) -> None:
        """Answers instead of the app, and closes. If the answer to an earlier request is on its
        way, or to this one, that one comes to its end."""
        cycle = self.cycle
        self._guard.on_end(str(error.code))
        if self._is_answering and (cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False
            self._deaf, self._num_bytes = True, 0
            return
        if self._is_answering:  # the app waits for the body
            cycle.disconnected = True
            cycle.message_event.set()
        if not self._raw.is_closing():
            self._raw.write(_response(error))
        self._linger()

    def _close(self) -> None:
        """As uvicorn wants it: the answer is complete."""
        if self._in_body or self._deaf:
            self._linger()
        else:
            self._raw.close()

    def _linger(self) -> None:
        """Ends what we send, and reads on until the client ends too: see PoliteTransport."""
        self.transport.is_leaving = True
        self.flow.resume_reading()
        self._deaf, self._num_bytes = True, 0
        self._deadline = self.loop.time() + LINGER_S
        if not self._raw.is_closing() and self._raw.can_write_eof():
            self._raw.write_eof()

    # --- the guard's questions -------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Ends a connection whose client is too slow, in sending or in reading."""
        if now > self._deadline:
            self._deadline = NEVER
            self._time_out()
        elif self._deadline == NEVER and self._in_body:
            self._start_clock()
        unsent = self._raw.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > self._limits.stall_timeout:
            self._guard.on_end("stalled")
            self._raw.abort()
            return
        if self._is_answering and has_vanished(self._raw.get_extra_info("socket"), VANISHED_S):
            self._guard.on_end("vanished")
            self._raw.abort()

    def _time_out(self) -> None:
        if self.transport.is_leaving:
            self._raw.abort()
        elif self._num_bytes == 0 and not self._in_body:
            self.drop("silent")
        else:
            what = "body" if self._in_body else "headers"
            limit_s = self._limits.body_timeout if self._in_body else self._limits.header_timeout
            message = f"the {what} did not come within {limit_s:g} s"
            self.refuse(refusal(408, message, "request_timeout"))

    def drop(self, reason: str) -> None:
        """Closes an idle connection."""
        self._guard.on_end(reason)
        self._raw.close()

    def turn_away(self) -> None:
        """Answers at once that there are too many."""
        error = too_many_connections()
        self._guard.on_end(str(error.code))
        self._raw.write(_response(error))
        self._raw.close()

    def _bad_request(self) -> ShoalError:
        """Why the parser stopped: what was refused, or what it did not understand."""
        error, self._refusal = self._refusal or malformed(), None
        return error


def too_many_connections() -> Unavailable:
    return Unavailable("too many connections are open", retry_after_s=1.0)


def _response(error: ShoalError) -> bytes:
    """The whole answer as bytes, in the documented shape."""
    body = error_bytes(error)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": uuid.uuid4().hex,
        "connection": "close",
        **error_headers(error),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reason = _REASONS.get(error.status, b"Error")
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (error.status, reason, lines.encode(), body)
