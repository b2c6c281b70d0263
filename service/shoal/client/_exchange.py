"""One call over HTTP: what is sent, how long each phase may take, what the response means.

Does no I/O; the drivers in `_async/` and `_sync/` send and read.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Generic, NamedTuple

from pydantic import BaseModel, ValidationError

from ._calls import Call
from ._collect import ResultT
from ._envelope import Envelope
from ._errors import (
    ConnectionFailed,
    Error,
    ResponseInvalid,
    StatusError,
    Timeout,
    TimeoutPhase,
    Unavailable,
    error_from_response,
)
from ._http import merge_headers, user_agent
from ._retry import retry_after_s, wait_before_retry_s
from ._settings import Settings, shorter, to_timeouts

_log = logging.getLogger("shoal.client")

_POLL_FIRST_S = 0.05
_POLL_MAX_S = 1.0

_TIMEOUT_MESSAGES: dict[TimeoutPhase, str] = {
    "connect": "no connection to {server}",
    "pool": "no free connection to {server}",
    "send": "{server} did not take the request",
    "first_byte": "no answer from {server}",
    "between_data": "no data from {server}",
    "total": "no complete answer from {server}",
}


class SocketLimits(NamedTuple):
    """Seconds the HTTP library may wait in each phase of one attempt; None = no limit.

    The order is that of a `timeout=` tuple. `read` is for the head of the response.
    """

    connect: float | None = None
    read: float | None = None
    write: float | None = None
    pool: float | None = None


class Exchange(Generic[ResultT]):
    """A call with the client's settings applied, and what the current attempt has received."""

    def __init__(self, call: Call[ResultT], settings: Settings, library: ModuleType) -> None:
        """Starts the total time limit. Raises ValueError for NaN in the body."""
        self.call = call
        self.settings = settings
        self.library = library
        self.timeouts = to_timeouts(call.timeout, settings.timeouts)
        self.limits = SocketLimits()
        self.envelope = Envelope()
        self.response: Any = None  # the HTTP library's
        self.body: Any = None  # the open `Body` of a stream, else None
        self.content = b""  # the whole body; of a stream only the first bytes
        self._content = None if call.body is None else _encode(call.body)
        self._headers = merge_headers(
            {
                "Accept": "text/event-stream" if call.stream else "application/json",
                "User-Agent": user_agent(),
                "X-Request-Id": f"req-{os.urandom(16).hex()}",
            },
            {} if call.body is None else {"Content-Type": "application/json"},
            # A compressing proxy would hold a stream back until it has enough to compress.
            {"Accept-Encoding": "identity"} if call.stream else {},
            {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"},
            settings.default_headers,
            call.extra_headers or {},
        )
        by_lower = {name.lower(): value for name, value in self._headers.items()}
        self._sent_id = by_lower.get("x-request-id")
        self._total_s = total_s = call.ready_within_s if call.waits else self.timeouts.total_s
        self._deadline = None if total_s is None else settings.clock.monotonic() + total_s
        self._num_attempts = 0
        self._not_ready: Error | None = None

    def next_attempt(self) -> dict[str, Any]:
        """Arguments of the HTTP library's `build_request`. Raises Timeout if no time is left."""
        self._num_attempts += 1
        self.envelope, self.body, self.content = Envelope(request_id=self._sent_id), None, b""
        left_s, timeouts, call = self.time_left_s(), self.timeouts, self.call
        # A generation that is not streamed sends nothing until it is finished.
        is_whole = call.chunk is not None and not call.stream
        first_byte_s = timeouts.answer_s if is_whole else timeouts.first_byte_s
        limits = (timeouts.connect_s, first_byte_s, timeouts.first_byte_s, None)
        self.limits = SocketLimits(*(shorter(limit_s, left_s) for limit_s in limits))
        return {
            "method": call.method,
            "url": self.settings.base_url + call.path,
            "content": self._content,
            "headers": {**self._headers, "X-Retry-Count": str(self._num_attempts - 1)},
            "timeout": self.limits,
        }

    @property
    def between_data_s(self) -> float | None:
        """Limit for a read inside a stream."""
        return shorter(self.timeouts.between_data_s, self.limits.pool)

    def time_left_s(self) -> float | None:
        """Seconds until the total time is over; None = no limit. Raises Timeout after that."""
        if self._deadline is None:
            return None
        left_s = self._deadline - self.settings.clock.monotonic()
        if left_s <= 0:
            raise self.timed_out("total", self._total_s)
        return left_s

    def timed_out(self, phase: TimeoutPhase, limit_s: float | None) -> Timeout:
        """The error for a time limit that was reached."""
        what = _TIMEOUT_MESSAGES[phase].format(server=self.settings.base_url)
        within = "in time" if limit_s is None else f"within {limit_s:.3g} s"
        error = Timeout(f"{what} {within}", phase=phase, limit_s=limit_s)
        error.request_id = self.envelope.request_id
        return error

    @contextmanager
    def errors_translated(self, *, in_stream: bool = False) -> Iterator[None]:
        """Turns the HTTP library's exceptions into ours. `in_stream`: after a stream's head."""
        library, limits = self.library, self.limits
        try:
            yield
        except library.ConnectTimeout as error:
            raise self.timed_out("connect", limits.connect) from error
        except library.PoolTimeout as error:
            raise self.timed_out("pool", limits.pool) from error
        except library.WriteTimeout as error:
            raise self.timed_out("send", limits.write) from error
        except library.TimeoutException as error:
            if in_stream:
                raise self.timed_out("between_data", self.between_data_s) from error
            is_total = limits.read == limits.pool
            raise self.timed_out("total" if is_total else "first_byte", limits.read) from error
        except library.TransportError as error:
            reason = str(error) or type(error).__name__
            message = f"connection to {self.settings.base_url} failed: {reason}"
            raise ConnectionFailed(message, request_id=self.envelope.request_id) from error
        except library.RequestError as error:  # a body that cannot be decoded, endless redirects
            message = f"answer of {self.settings.base_url} cannot be read: {error}"
            raise ResponseInvalid(message, request_id=self.envelope.request_id) from error

    def head_received(self, response: Any) -> None:
        """Takes note of a response's head, and sets the time limit for reading the body."""
        self.response = response
        limits = response.request.extensions.get("timeout")
        if self.call.stream and isinstance(limits, dict):
            limits["read"] = self.between_data_s  # the HTTP library looks it up for each read
        headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
        request_id = headers.get("x-request-id") or self._sent_id
        self.envelope = Envelope(response.status_code, headers, request_id)

    @property
    def streams(self) -> bool:
        """Whether the body comes as a stream."""
        return self.call.stream and self.envelope.is_success

    def check_status(self) -> None:
        """Raises a StatusError unless the status is that of a result."""
        if not (self.envelope.is_success or self.envelope.status in self.call.accepted_statuses):
            raise self._status_error()

    def next_attempt_in_s(self, failure: Error) -> float:
        """Seconds until the next attempt. Raises `failure` if there should be none."""
        clock, num_retries = self.settings.clock, self._num_attempts - 1
        if self.call.waits:
            return self._wait_until_ready_s(failure, self.call.ready_within_s)
        wait_s = wait_before_retry_s(failure, self.envelope.headers, num_retries, clock)
        if wait_s is None or not self.call.retried or num_retries >= self.settings.max_retries:
            raise failure
        if self._deadline is not None and clock.monotonic() + wait_s >= self._deadline:
            raise failure
        _log.info(
            "retry %d of %s %s in %.3f s after %s, request %s",
            self._num_attempts, self.call.method, self.call.path, wait_s, type(failure).__name__,
            self.envelope.request_id,
        )  # fmt: skip
        return wait_s

    def _wait_until_ready_s(self, failure: Error, within_s: float | None) -> float:
        # Waiting helps against "nobody answers" and "still loading", not against a wrong key.
        if not isinstance(failure, (ConnectionFailed, Timeout, Unavailable)):
            raise failure
        pause_s = min(_POLL_MAX_S, _POLL_FIRST_S * 2.0 ** min(self._num_attempts - 1, 16))
        if self._deadline is None or within_s is None:
            return pause_s
        left_s = self._deadline - self.settings.clock.monotonic()
        # The last attempt finds no time left; the one before it knows why the server is not ready.
        cause = self._not_ready or failure
        if left_s <= 0:
            raise Timeout(
                f"{self.settings.base_url} was not ready within {within_s:.3g} s; "
                f"last: {cause.message}",
                limit_s=within_s,
                request_id=self.envelope.request_id,
            ) from cause
        self._not_ready = failure
        return min(left_s, pause_s)

    def result(self) -> ResultT:
        """The typed result in the response. Raises ResponseInvalid."""
        try:
            result = self.call.result.from_content(self.content)
        except ValidationError as error:
            if not self.envelope.is_success:
                raise self._status_error() from error
            raise self.invalid(
                f"the answer is not what the API promises: {summary(error)}"
            ) from error
        if not self.envelope.is_success and "error" in (result.model_extra or {}):
            raise self._status_error()  # an accepted status, but from a proxy in between
        result.with_envelope(self.envelope)
        result.with_format(self.call.reader)
        return result

    def invalid(self, problem: str) -> ResponseInvalid:
        """The error for a response that the API does not allow."""
        return ResponseInvalid(
            f"{self.call.method} {self.call.path}: {problem}",
            body=self.content.decode("utf-8", "replace"),
            request_id=self.envelope.request_id,
        )

    def _status_error(self) -> StatusError:
        status, headers = self.envelope.status, self.envelope.headers
        error = error_from_response(status, self.content, request_id=self.envelope.request_id)
        error.retry_after = retry_after_s(headers, self.settings.clock)
        return error


def warn_ignored(envelope: Envelope, warned: set[str]) -> None:
    """A UserWarning for each request field the server ignored, unless its name is in `warned`."""
    for name in envelope.ignored_params:
        if name not in warned:
            warned.add(name)
            warnings.warn(
                f"the server ignored the unknown parameter {name!r}",
                UserWarning,
                stacklevel=_callers_level(),
            )


def summary(error: ValidationError) -> str:
    """The first problem in one line."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg']}"


def _callers_level() -> int:
    """The `stacklevel` of the first frame outside the SDK, for a warning of our caller."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(f"{__package__}._"):
        level, frame = level + 1, frame.f_back
    return level


def _encode(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(
        body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_of
    )
    return text.encode()


def _json_of(value: object) -> Any:
    """A message of an earlier result, in a conversation."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
