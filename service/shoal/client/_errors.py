"""Every error the SDK raises, and how an HTTP error becomes one of them.

    Error
    ├── ClientClosed                the client was closed before this call
    ├── ConnectionFailed            no connection, or it broke before the answer was complete
    ├── Timeout                     one of the `Timeouts` was reached (`.phase` says which)
    ├── StreamInterrupted           a stream was cut before its end; `.text` is what arrived
    ├── ResponseInvalid             the answer is not what the API promises
    ├── ParseFailed                 the text does not fit the class given as `response_format`
    ├── ToolRoundsExceeded          a model still calls tools after the last round
    └── StatusError                 the server answered with an error
        ├── BadRequest              400
        │   ├── ContextLengthExceeded
        │   └── InvalidSchema
        ├── AuthenticationFailed    401
        ├── PermissionDenied        403
        ├── NotFound                404
        │   └── ModelNotFound
        ├── Conflict                409
        ├── TooLarge                413
        ├── RateLimited             429: your own limit
        ├── Unavailable             503: the whole server
        │   ├── Overloaded
        │   ├── Loading
        │   └── ShuttingDown
        └── ServerError             every other 5xx

Knows no HTTP library: statuses are numbers and headers a mapping.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

TimeoutPhase = Literal["connect", "pool", "send", "first_byte", "between_data", "total"]

_MAX_QUOTED = 200  # characters of a body shown in a message


@dataclass(eq=False, repr=False)
class Error(Exception):
    """Base of all. `request_id` is the `X-Request-Id` to look for in the server's log.

    `completed` is for `generate_many`: what it had when this error ended it, by position.
    """

    message: str = ""
    request_id: str | None = field(default=None, kw_only=True)
    completed: dict[int, Any] = field(default_factory=dict, kw_only=True)

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class ClientClosed(Error):
    """The client, or its `http_client`, was closed: make a new one."""


class ConnectionFailed(Error):
    """The server could not be reached, or hung up before its answer was complete."""


@dataclass(eq=False, repr=False, kw_only=True)
class Timeout(Error):
    """A time limit was reached. `phase` names the field of `Timeouts`, `limit_s` its seconds."""

    phase: TimeoutPhase = "total"
    limit_s: float | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class StreamInterrupted(Error):
    """The stream was cut before its end. `text` is the text of the first choice so far."""

    text: str = ""


@dataclass(eq=False, repr=False, kw_only=True)
class ResponseInvalid(Error):
    """The answer is not what the API promises: no JSON, a missing field. `body` is the text."""

    body: str = ""


@dataclass(eq=False, repr=False, kw_only=True)
class ParseFailed(Error):
    """The text does not fit the class given as `response_format`, or was cut before its end."""

    text: str = ""
    finish_reason: str | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class ToolRoundsExceeded(Error):
    """The model still calls tools after `max_rounds`. `messages` is the conversation so far."""

    messages: list[Any] = field(default_factory=list)


@dataclass(eq=False, repr=False, kw_only=True)
class StatusError(Error):
    """The server answered with an error status, or sent an error inside a stream.

    `code`, `param`, `type` and `hint` are those of the API's error object, None if the body is
    not one. `body` is the parsed JSON, or else the text. `retry_after` is in seconds. An error
    inside a stream has the `status` it would have had before the stream.
    """

    status: int = 0
    code: str | None = None
    param: str | None = None
    type: str | None = None
    hint: str | None = None
    body: Any = None  # whatever JSON the server sent
    retry_after: float | None = None

    def __str__(self) -> str:
        named = {
            "status": self.status or None,
            "code": self.code,
            "param": self.param,
            "request": self.request_id,
        }
        facts = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
        text = f"{self.message} {self.hint}" if self.hint else self.message
        return f"{text} ({facts})" if facts else text


class BadRequest(StatusError):
    """400: the request cannot be served as it is; sending it again will not help."""


class ContextLengthExceeded(BadRequest):
    """The prompt and `max_tokens` do not fit the model's context."""


class InvalidSchema(BadRequest):
    """A JSON schema in the request cannot be used; the message names the key."""


class AuthenticationFailed(StatusError):
    """401: no key, or a wrong one."""


class PermissionDenied(StatusError):
    """403: the key may not do this."""


class NotFound(StatusError):
    """404: no such thing."""


class ModelNotFound(NotFound):
    """The server has no model of this name; the message lists some it has."""


class Conflict(StatusError):
    """409: it clashes with the present state."""


class TooLarge(StatusError):
    """413: the request body is over the server's limit."""


class RateLimited(StatusError):
    """429: the caller's own limit. Slow down for `retry_after` seconds."""


class Unavailable(StatusError):
    """503: the server cannot take it now."""


class Overloaded(Unavailable):
    """The server's queue is full."""


class Loading(Unavailable):
    """A model is still being loaded."""


class ShuttingDown(Unavailable):
    """The server is ending; another replica may answer."""


class ServerError(StatusError):
    """5xx: the server failed."""


_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: RateLimited,
    503: Unavailable,
}

_BY_CODE: dict[str, type[StatusError]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "invalid_schema": InvalidSchema,
    "model_not_found": ModelNotFound,
    "server_is_overloaded": Overloaded,
    "model_loading": Loading,
    "shutting_down": ShuttingDown,
}

# An error event in a stream has no status: its code decides, else its type.
_STATUSES = {
    "model_not_found": 404,
    "not_found": 404,
    "unknown_url": 404,
    "request_too_large": 413,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "conflict_error": 409,
    "rate_limit_error": 429,
    "server_error": 500,
    "service_unavailable_error": 503,
    "timeout_error": 504,
}


def error_from_response(status: int, body: bytes, *, request_id: str | None) -> StatusError:
    """The error for a response whose status is not a success."""
    text = body.decode("utf-8", "replace")
    parsed = parse_json(text)
    reason = text.strip()[:_MAX_QUOTED] or "the server gave no reason"
    error = _build(status, text if parsed is None else parsed, f"HTTP {status}: {reason}")
    error.request_id = request_id
    return error


def error_from_event(event: Any, *, request_id: str | None) -> StatusError:
    """The error for an event inside a stream that says the request failed.

    `event` is the parsed JSON of the event, or its text if it is not JSON.
    """
    error = _build(None, event, f"the stream failed: {str(event)[:_MAX_QUOTED]}")
    error.request_id = request_id
    return error


def parse_json(text: str) -> Any:
    """The JSON value, or None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _build(status: int | None, body: Any, fallback: str) -> StatusError:
    details = _error_object(body)
    message, param, kind, hint = map(_text, map(details.get, ("message", "param", "type", "hint")))
    code = details.get("code")
    if status is None:
        status = _STATUSES.get(str(code), _STATUSES.get(str(kind), 500))
        if isinstance(code, int) and 400 <= code <= 599:  # other servers put the status here
            status = code
    by_status = _BY_STATUS.get(status, ServerError if status >= 500 else StatusError)
    by_code = _BY_CODE.get(str(code), by_status)
    # The status decides; a code only makes the class more exact.
    error = (by_code if issubclass(by_code, by_status) else by_status)(message or fallback)
    error.status, error.code = status, None if code is None else str(code)
    error.param, error.type, error.hint, error.body = param, kind, hint, body
    return error


def _error_object(body: Any) -> dict[str, Any]:
    """The error object in the body, in any of the shapes of OpenAI-like servers."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if isinstance(error, str):
        return {"message": error}
    if isinstance(error, dict):
        return error
    return {**body, "message": body.get("message") or body.get("detail")}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
