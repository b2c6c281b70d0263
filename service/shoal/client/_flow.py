"""One call from request to reply as a generator that does no I/O.

The flow yields `Send` and `Wait`; a driver (`_client.py`, `_async_client.py`) does that and
sends back a `Reply`, or throws the error in. Retries, limits and waiting are decided here, once
for both drivers. What a reply means for a result: `finish`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, Literal

from pydantic import ValidationError

from ._collect import ChunkT, Collector, ResultT
from ._errors import (
    ConnectionFailed,
    Error,
    ResponseInvalid,
    StatusError,
    Timeout,
    Unavailable,
    error_from_response,
)
from ._http import SocketLimits, Warned, merge_headers, timed_out, user_agent
from ._retry import retry_after_s, wait_before_retry_s
from ._settings import Settings, Timeouts, shorter, to_timeouts
from ._stream import StreamReader, summary
from ._types import Envelope

_log = logging.getLogger("shoal.client")

_POLL_FIRST_S = 0.05
_POLL_MOST_S = 1.0


@dataclass(frozen=True)
class Call(Generic[ResultT]):
    """What a method of the client asks for. Built in `_calls.py`."""

    method: str
    path: str
    result: type[ResultT]
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    extra_headers: Mapping[str, str | None] | None = field(default=None, repr=False)
    timeout: float | Timeouts | None = None
    stream: bool = False
    generates: bool = False
    """The reply begins only when it is complete, after any time at all."""
    num_choices: int = 1
    """How many choices a stream must finish."""
    hide_usage: bool = False
    """The usage at the end of a stream was not asked for by the caller, so its chunk is not
    shown."""
    raw: bool = False
    """The caller wants the HTTP library's response, not a result."""
    retried: bool = True
    also_fine: tuple[int, ...] = ()
    """Error statuses that are an answer all the same."""


@dataclass(frozen=True)
class Send:
    """For the driver: send this, and read the reply (of a stream: only up to its first bytes)."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)  # the key is in there
    content: bytes | None = field(repr=False)
    stream: bool
    raw: bool
    limits: SocketLimits
    deadline: float | None
    read_phase: Literal["first_byte", "total"]
    """Which limit a read before the body runs into."""
    request: Request

    def past_deadline(self) -> Timeout | None:
        """The error, once the total time is over."""
        if self.deadline is None or self.request.settings.clock.monotonic() < self.deadline:
            return None
        return self.request.timed_out()


@dataclass(frozen=True)
class Wait:
    """For the driver: wait so long."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """What came back. `opened` is the driver's open stream, if this is one."""

    to: Send
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""
    opened: Any = None  # the driver's own; nothing here looks inside

    @property
    def request_id(self) -> str:
        """The server's word, or ours if it sent none."""
        return self.headers.get("x-request-id") or self.to.request.request_id


Flow = Generator["Send | Wait", "Reply | None", Reply]


@dataclass(frozen=True)
class Request:
    """A call with the client's settings worked in: the same for every attempt."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)  # the key is in there
    content: bytes | None = field(repr=False)
    stream: bool
    raw: bool
    generates: bool
    request_id: str
    timeouts: Timeouts
    settings: Settings = field(repr=False)

    def attempt(self, number: int, deadline: float | None, *, read_s: float | None = None) -> Send:
        """The `Send` of an attempt (0 = the first). Raises Timeout if no time is left."""
        left_s = None
        if deadline is not None:
            left_s = deadline - self.settings.clock.monotonic()
            if left_s <= 0:
                raise self.timed_out()
        limits = self.timeouts
        # Only a stream or a quick answer begins before its work is done.
        first_byte_s = None if self.generates and not self.stream else limits.first_byte_s
        read_s = shorter(shorter(first_byte_s, read_s), left_s)
        return Send(
            method=self.method,
            url=self.url,
            headers={**self.headers, "X-Retry-Count": str(number)},
            content=self.content,
            stream=self.stream,
            raw=self.raw,
            limits=SocketLimits(
                connect=shorter(limits.connect_s, left_s),
                read=read_s,
                read_body=shorter(limits.between_data_s, left_s) if self.stream else read_s,
                write=shorter(limits.first_byte_s, left_s),
                pool=left_s,
            ),
            deadline=deadline,
            read_phase="total" if read_s == left_s else "first_byte",
            request=self,
        )

    def timed_out(self) -> Timeout:
        """The error for the total time."""
        return timed_out(
            "total",
            self.timeouts.total_s,
            server=self.settings.base_url,
            request_id=self.request_id,
        )


def prepare(call: Call[Any], settings: Settings) -> Request:
    """Headers, body bytes and limits of a call. Raises ValueError for NaN in the body."""
    content = None if call.body is None else _encode(call.body)
    headers = merge_headers(
        {
            "Accept": "text/event-stream" if call.stream else "application/json",
            "User-Agent": user_agent(),
            "X-Request-Id": f"req-{os.urandom(16).hex()}",
        },
        {} if content is None else {"Content-Type": "application/json"},
        # A compressing proxy would hold a stream back until it has enough to compress.
        {"Accept-Encoding": "identity"} if call.stream else {},
        {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"},
        settings.default_headers,
        call.extra_headers or {},
    )
    by_lower = {name.lower(): value for name, value in headers.items()}
    return Request(
        method=call.method,
        url=settings.base_url + call.path,
        headers=headers,
        content=content,
        stream=call.stream,
        raw=call.raw,
        generates=call.generates,
        request_id=by_lower.get("x-request-id", ""),
        timeouts=to_timeouts(call.timeout, settings.timeouts),
        settings=settings,
    )


def request_flow(call: Call[Any], settings: Settings) -> Flow:
    """Sends until there is an answer or no hope. Returns a good reply or raises an Error."""
    request, clock = prepare(call, settings), settings.clock
    started = clock.monotonic()
    total_s = request.timeouts.total_s
    deadline = None if total_s is None else started + total_s
    max_retries = settings.max_retries if call.retried else 0
    for attempt in count():
        headers: Mapping[str, str] = {}
        failure: Error
        try:
            reply = yield request.attempt(attempt, deadline)
            assert reply is not None
            if _is_fine(reply, call):
                return reply
            headers = reply.headers
            failure = _status_error(reply)
        except (ConnectionFailed, Timeout) as error:
            failure = error
        wait_s = wait_before_retry_s(failure, headers, attempt, clock)
        if wait_s is None or attempt >= max_retries:
            raise failure
        if deadline is not None and clock.monotonic() + wait_s >= deadline:
            raise failure
        _log.info(
            "retry %d of %s %s in %.3f s after %s, request %s",
            attempt + 1, call.method, call.path, wait_s, type(failure).__name__,
            request.request_id,
        )  # fmt: skip
        yield Wait(wait_s)
    raise AssertionError("count() does not end")


def ready_flow(call: Call[Any], settings: Settings, timeout_s: float) -> Flow:
    """Asks until the server is ready. Returns its good reply.

    Raises Timeout after `timeout_s`, and at once what waiting cannot mend (a wrong key).
    """
    request, clock = prepare(call, settings), settings.clock
    deadline = clock.monotonic() + timeout_s
    pause_s = _POLL_FIRST_S
    last: Error | None = None
    for attempt in count():
        left_s = deadline - clock.monotonic()
        if left_s <= 0:
            break
        try:
            reply = yield request.attempt(attempt, deadline, read_s=left_s)
            assert reply is not None
            if reply.status == 200:
                return reply
            last = _status_error(reply)
            if not isinstance(last, Unavailable):
                raise last
        except (ConnectionFailed, Timeout) as error:
            last = error
        yield Wait(max(0.0, min(pause_s, deadline - clock.monotonic())))
        pause_s = min(_POLL_MOST_S, pause_s * 2)
    why = f"; last: {last.message}" if last is not None else ""
    raise Timeout(
        f"{settings.base_url} was not ready within {timeout_s:.3g} s{why}",
        phase="total",
        limit_s=timeout_s,
        request_id=request.request_id,
    ) from last


def lower_names(headers: Any) -> dict[str, str]:
    """The headers of either HTTP library as a plain mapping."""
    return {str(name).lower(): str(value) for name, value in headers.items()}


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """By the content type of a reply."""
    return headers.get("content-type", "").lower().startswith("text/event-stream")


def envelope_of(reply: Reply) -> Envelope:
    """The HTTP side of a result."""
    return Envelope(reply.status, reply.headers, reply.request_id)


def finish(call: Call[ResultT], reply: Reply) -> ResultT:
    """The typed result of a reply. Raises ResponseInvalid."""
    try:
        result = call.result.model_validate_json(reply.body)
    except ValidationError as error:
        if reply.status >= 400:
            raise _status_error(reply) from error
        raise ResponseInvalid(
            f"{call.method} {call.path}: the answer is not what the API promises: {summary(error)}",
            body=reply.body.decode("utf-8", "replace"),
            request_id=reply.request_id,
        ) from error
    if reply.status >= 400 and "error" in (result.model_extra or {}):
        raise _status_error(reply)  # fine by its status, but from somebody else
    result.with_envelope(envelope_of(reply))
    return result


def stream_reader(
    call: Call[ResultT], collector: Collector[ChunkT, ResultT], reply: Reply
) -> StreamReader[ChunkT, ResultT]:
    """What follows the body of a streamed reply. Raises ResponseInvalid if it is no stream."""
    if reply.opened is None:
        shown = reply.headers.get("content-type", "nothing that has a type")
        raise ResponseInvalid(
            f"{call.method} {call.path}: asked for a stream, got {shown}",
            body=reply.body.decode("utf-8", "replace"),
            request_id=reply.request_id,
        )
    request = reply.to.request
    return StreamReader(
        collector,
        hide_usage=call.hide_usage,
        timeouts=request.timeouts,
        deadline=reply.to.deadline,
        clock=request.settings.clock,
        server=request.settings.base_url,
        request_id=reply.request_id,
    )


def warn_ignored(envelope: Envelope, warned: Warned) -> None:
    """A UserWarning for every request field the server ignored, once per name and client."""
    for name in envelope.ignored_params:
        if warned.first_time(name):
            warnings.warn(
                f"the server ignored the unknown parameter {name!r}",
                UserWarning,
                stacklevel=_callers_level(),
            )


def _callers_level() -> int:
    """The `stacklevel` of the first frame outside the SDK."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level


def _is_fine(reply: Reply, call: Call[Any]) -> bool:
    return 200 <= reply.status < 300 or reply.status in call.also_fine


def _status_error(reply: Reply) -> StatusError:
    return error_from_response(
        reply.status,
        reply.body,
        request_id=reply.request_id,
        retry_after=retry_after_s(reply.headers, reply.to.request.settings.clock),
    )


def _encode(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()
