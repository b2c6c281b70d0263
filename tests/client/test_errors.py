"""Which error a reply becomes, and what it carries."""

import pickle
from typing import Any

import pytest

from shoal import client as sdk_module
from shoal.client import (
    AuthenticationFailed,
    BadRequest,
    Conflict,
    ConnectionFailed,
    ContextLengthExceeded,
    Error,
    InvalidSchema,
    Loading,
    ModelNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
    RateLimited,
    ResponseInvalid,
    ServerError,
    ShuttingDown,
    StatusError,
    StreamInterrupted,
    Timeout,
    TooLarge,
    Unavailable,
)
from shoal.client import _errors as errors_module
from shoal.client._errors import error_from_response
from shoal.client.testing import MockServer
from tests.client.both import Sdk, both

TABLE = [
    (400, "invalid_value", "invalid_request_error", BadRequest),
    (400, "unsupported_parameter", "invalid_request_error", BadRequest),
    (400, "context_length_exceeded", "invalid_request_error", ContextLengthExceeded),
    (400, "invalid_schema", "invalid_request_error", InvalidSchema),
    (401, "invalid_api_key", "authentication_error", AuthenticationFailed),
    (403, "insufficient_permissions", "permission_error", PermissionDenied),
    (404, "model_not_found", "invalid_request_error", ModelNotFound),
    (404, "unknown_url", "invalid_request_error", NotFound),
    (405, "method_not_allowed", "invalid_request_error", StatusError),
    (409, "model_busy", "conflict_error", Conflict),
    (413, "request_too_large", "invalid_request_error", TooLarge),
    (415, "unsupported_media_type", "invalid_request_error", StatusError),
    (429, "rate_limit_exceeded", "rate_limit_error", RateLimited),
    (429, "tenant_queue_full", "rate_limit_error", RateLimited),
    (500, "internal_error", "server_error", ServerError),
    (503, "server_is_overloaded", "service_unavailable_error", Overloaded),
    (503, "model_loading", "service_unavailable_error", Loading),
    (503, "shutting_down", "service_unavailable_error", ShuttingDown),
    (503, "engine_restarted", "service_unavailable_error", Unavailable),
    (504, "request_timeout", "timeout_error", ServerError),
    (500, "model_not_found", "server_error", ServerError),  # the status is the promise
]


@both
@pytest.mark.parametrize(("status", "code", "kind", "expected"), TABLE)
async def test_each_row_of_the_error_table_has_its_class(
    sdk: Sdk, status: int, code: str, kind: str, expected: type[StatusError]
) -> None:
    server = MockServer()
    server.error(status, code, "top_p is too big", type=kind, param="top_p",
                 headers={"X-Request-Id": "r7", "Retry-After": "4"})  # fmt: skip
    with pytest.raises(StatusError) as caught:
        await sdk.do(sdk.client(server, max_retries=0).completions.create("x"))
    error = caught.value
    assert type(error) is expected
    assert (error.status, error.code, error.type, error.param) == (status, code, kind, "top_p")
    assert (error.message, error.request_id, error.retry_after) == ("top_p is too big", "r7", 4.0)
    assert error.body["error"]["code"] == code
    assert str(error) == f"top_p is too big (status {status}, code {code}, param top_p, request r7)"


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"no","code":null,"hint":"do so"}}', "no", None),
        (b'{"error":"just text"}', "just text", None),
        (b'{"detail":"Not Found"}', "Not Found", None),
        (b'{"object":"error","message":"older shape","code":40001}', "older shape", "40001"),
        (b'{"error":{"message":""}}', 'HTTP 400: {"error":{"message":""}}', None),
        (b"<html>Bad Gateway</html>", "HTTP 400: <html>Bad Gateway</html>", None),
        (b"", "HTTP 400: the server gave no reason", None),
        (b"\xff\xfe", "HTTP 400: \ufffd\ufffd", None),
        (b"[1]", "HTTP 400: [1]", None),
        (b"[" * 100_000, "HTTP 400: " + "[" * 200, None),
    ],
)
def test_bodies_of_any_shape_give_a_message(body: bytes, message: str, code: str | None) -> None:
    error = error_from_response(400, body, request_id=None)
    assert (error.message, error.code) == (message, code)
    if not isinstance(error.body, (dict, list)):
        assert error.body == body.decode("utf-8", "replace")


def test_a_hint_is_part_of_what_people_read() -> None:
    body = b'{"error":{"message":"logprobs must be an integer","hint":"chat takes true"}}'
    error = error_from_response(400, body, request_id=None)
    assert error.hint == "chat takes true"
    assert str(error) == "logprobs must be an integer chat takes true (status 400)"


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    parents: dict[int, str] = {}
    drawn: dict[str, str] = {}
    for line in (errors_module.__doc__ or "").splitlines():
        name = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split()[:1]
        if not name or not hasattr(errors_module, name[0]) or name[0] == "Every":
            continue
        depth = line.index(name[0])
        parents[depth] = name[0]
        if depth - 4 in parents and name[0] != "Error":
            drawn[name[0]] = parents[depth - 4]
    real = {
        cls.__name__: cls.__bases__[0].__name__
        for cls in vars(errors_module).values()
        if isinstance(cls, type) and issubclass(cls, Error) and cls is not Error
    }
    assert drawn == real
    assert set(real) | {"Error"} <= set(sdk_module.__all__)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("gone", request_id="r"),
        Timeout("late", phase="connect", limit_s=5.0, request_id="r"),
        StreamInterrupted("cut", text="some", request_id="r"),
        ResponseInvalid("odd", body="<html>", request_id="r"),
        Overloaded("full", status=503, code="c", body={"a": 1}, retry_after=2.0, request_id="r"),
    ],
)
def test_errors_survive_a_trip_between_processes(error: Error) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_error_facts_are_optional() -> None:
    values: list[Any] = [str(StatusError("no")), str(Error("no")), str(Error())]
    assert values == ["no", "no", ""]
