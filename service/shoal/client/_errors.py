"""Every error the SDK raises, and how an HTTP error becomes one of them.

    Error
    ├── ConnectionFailed            no connection, or it broke before the answer was complete
    ├── Timeout                     one of the `Timeouts` ran out (`.phase` says which)
    ├── StreamInterrupted           a stream was cut before its end; `.text` is what arrived
    ├── ResponseInvalid             the answer is not what the API promises
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
from typing import Any, Literal

TimeoutPhase = Literal["connect", "pool", "send", "first_byte", "between_data", "total"]

_MAX_QUOTED = 200  # characters of a foreign body shown in a message


class Error(Exception):
    """Base of all. `request_id` is the `X-Request-Id` to look for in the server's log."""

    def __init__(self, message: str = "", *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class ConnectionFailed(Error):
    """The server could not be reached, or hung up before its answer was complete."""


class Timeout(Error):
    """A time limit ran out. `phase` names the field of `Timeouts`, `limit_s` its seconds."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: TimeoutPhase = "total",
        limit_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.phase = phase
        self.limit_s = limit_s


class StreamInterrupted(Error):
    """The stream was cut before its end. `text` is the text of the first choice so far."""

    def __init__(self, message: str = "", *, text: str = "", request_id: str | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.text = text


class ResponseInvalid(Error):
    """The answer is not what the API promises: no JSON, a missing field. `body` is the text."""

    def __init__(self, message: str = "", *, body: str = "", request_id: str | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.body = body


class StatusError(Error):
    """The server answered with an error status, or sent an error inside a stream.

    `code`, `param` and `type` are those of the API's error object, None when the body is not
    one. `body` is the parsed JSON, or the text of a body that is none. `retry_after` is in
    seconds. An error inside a stream has the `status` it would have had before the stream.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        hint: str | None = None,
        request_id: str | None = None,
        body: Any = None,  # whatever JSON the server sent
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.status = status
        self.code = code
        self.param = param
        self.type = type
        self.hint = hint
        self.body = body
        self.retry_after = retry_after

    def __str__(self) -> str:
        named = {
            "status": self.status or None,
            "code": self.code,
            "param": self.param,
            "request": self.request_id,
        }
        facts = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
        hint = f" {self.hint}" if self.hint else ""
        return f"{self.message}{hint} ({facts})" if facts else f"{self.message}{hint}"


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


_CLASS_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: RateLimited,
    503: Unavailable,
}

_CLASS_BY_CODE: dict[str, type[StatusError]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "invalid_schema": InvalidSchema,
    "model_not_found": ModelNotFound,
    "server_is_overloaded": Overloaded,
    "model_loading": Loading,
    "shutting_down": ShuttingDown,
}

# An error event in a stream carries no status. Its code decides where the type is too wide.
_STATUS_BY_CODE = {
    "model_not_found": 404,
    "not_found": 404,
    "unknown_url": 404,
    "request_too_large": 413,
}

_STATUS_BY_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "conflict_error": 409,
    "rate_limit_error": 429,
    "server_error": 500,
    "service_unavailable_error": 503,
    "timeout_error": 504,
}


def error_from_response(
    status: int, body: bytes, *, request_id: str | None, retry_after: float | None = None
) -> StatusError:
    """The error for an answer whose status is not a success."""
    text = body.decode("utf-8", "replace")
    parsed = parse_json(text)
    details = _error_object(parsed)
    fallback = text.strip()[:_MAX_QUOTED] or "the server gave no reason"
    return _build(
        status,
        details,
        message=_text(details.get("message")) or f"HTTP {status}: {fallback}",
        request_id=request_id,
        body=text if parsed is None else parsed,
        retry_after=retry_after,
    )


def error_from_event(event: Any, *, request_id: str | None) -> StatusError:
    """The error for an event inside a stream that says the request failed.

    `event` is the parsed JSON of the event, or its text when it is not JSON.
    """
    details = _error_object(event)
    return _build(
        _status_of(details),
        details,
        message=_text(details.get("message")) or f"the stream failed: {str(event)[:_MAX_QUOTED]}",
        request_id=request_id,
        body=event,
    )


def parse_json(text: str) -> Any:
    """The JSON value, or None when the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _build(
    status: int,
    details: dict[str, Any],
    *,
    message: str,
    request_id: str | None,
    body: Any,
    retry_after: float | None = None,
) -> StatusError:
    code = details.get("code")
    code = None if code is None else str(code)
    return _class_of(status, code)(
        message,
        status=status,
        code=code,
        param=_text(details.get("param")),
        type=_text(details.get("type")),
        hint=_text(details.get("hint")),
        request_id=request_id,
        body=body,
        retry_after=retry_after,
    )


def _class_of(status: int, code: str | None) -> type[StatusError]:
    by_status = _CLASS_BY_STATUS.get(status, ServerError if status >= 500 else StatusError)
    by_code = _CLASS_BY_CODE.get(code or "")
    # The status is the promise; a code only makes it more exact.
    return by_code if by_code is not None and issubclass(by_code, by_status) else by_status


def _error_object(parsed: Any) -> dict[str, Any]:
    """The error object of the body, whatever OpenAI-like shape it has."""
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    return {
        "message": parsed.get("message") or parsed.get("detail"),
        "type": parsed.get("type"),
        "code": parsed.get("code"),
    }


def _status_of(details: dict[str, Any]) -> int:
    code = details.get("code")
    if isinstance(code, int) and 400 <= code <= 599:  # other servers put the status here
        return code
    by_type = _STATUS_BY_TYPE.get(str(details.get("type")), 500)
    return _STATUS_BY_CODE.get(str(code), by_type)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
