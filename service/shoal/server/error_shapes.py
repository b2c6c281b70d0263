"""How each API writes an error: a dialect's routes in its shape, all others in OpenAI's.

By path, since an error may come from the middleware or the router, before any route is known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.types import Scope

from shoal.errors import ShoalError
from shoal.server.context import context_of
from shoal.server.errors import MAX_MESSAGE_CHARS, error_body
from shoal.server.json import dumps

Shape = Callable[[ShoalError, str], dict[str, Any]]
"""The body of an error; the second argument is the request's id."""


def error_bytes_at(scope: Scope, error: ShoalError) -> bytes:
    """The error's body as the API of the request's path writes it."""
    path = scope["path"]
    return dumps(shape_of(path)(error, context_of(scope).request_id))


def shape_of(path: str) -> Shape:
    dialect = _dialect_of(path)
    return openai_shape if dialect is None else dialect.shape


def error_schema_of(path: str) -> tuple[str, dict[str, Any]] | None:
    """Name and JSON schema of a dialect's errors, for the API's document; None = OpenAI's."""
    dialect = _dialect_of(path)
    return None if dialect is None else (dialect.schema_name, dialect.schema)


def _dialect_of(path: str) -> "_Dialect | None":
    for dialect in _DIALECTS:
        if path in dialect.paths or (dialect.prefix and path.startswith(dialect.prefix)):
            return dialect
    return None


def request_id_headers(path: str) -> tuple[str, ...]:
    """Headers that carry the request's id; Anthropic's clients read one of their own."""
    is_anthropic = path.startswith("/v1/messages")
    return ("x-request-id", "request-id") if is_anthropic else ("x-request-id",)


def openai_shape(error: ShoalError, request_id: str) -> dict[str, Any]:
    return error_body(error)


def anthropic_shape(error: ShoalError, request_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": _anthropic_type(error), "message": plain_text(error)},
        "request_id": request_id,
    }


def ollama_shape(error: ShoalError, request_id: str) -> dict[str, Any]:
    return {"error": plain_text(error)}


def tgi_shape(error: ShoalError, request_id: str) -> dict[str, Any]:
    return {"error": plain_text(error), "error_type": _tgi_type(error.status)}


def plain_text(error: ShoalError) -> str:
    """Message and hint, for shapes that have one text only."""
    hint = f" ({error.hint})" if error.hint else ""
    return (error.message + hint)[:MAX_MESSAGE_CHARS]


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic_type(error: ShoalError) -> str:
    otherwise = "invalid_request_error" if error.status < 500 else "api_error"
    return _ANTHROPIC_TYPES.get(error.status, otherwise)


def _tgi_type(status: int) -> str:
    """One of the types that huggingface_hub has an exception for."""
    if status in (429, 503):
        return "overloaded"
    return "validation" if status < 500 else "generation"


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_STRING = {"type": "string"}
_ANTHROPIC = _object(type=_STRING, error=_object(type=_STRING, message=_STRING), request_id=_STRING)


class _Dialect(NamedTuple):
    schema_name: str
    schema: dict[str, Any]
    shape: Shape
    prefix: str = ""
    paths: frozenset[str] = frozenset()


_DIALECTS = (
    _Dialect("AnthropicError", _ANTHROPIC, anthropic_shape, "/v1/messages"),
    _Dialect("OllamaError", _object(error=_STRING), ollama_shape, "/api/"),
    _Dialect(
        "TGIError",
        _object(error=_STRING, error_type=_STRING),
        tgi_shape,
        paths=frozenset({"/", "/generate", "/generate_stream", "/info"}),
    ),
)
