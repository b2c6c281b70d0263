"""Reads a request body: its size is limited while reading. What it says is `parsing.py`'s matter.

Large bodies are parsed and validated beside the event loop.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from shoal.errors import ClientGone, RequestTooLarge, UnsupportedMediaType
from shoal.server.context import context_of
from shoal.server.off_loop import INLINE_BYTES, off_loop
from shoal.server.parsing import parse, parse_object
from shoal.server.services import services_of

_OF_BROWSERS = ("origin", "sec-fetch-site", "referer")

Schema = TypeVar("Schema", bound=BaseModel)
Result = TypeVar("Result")


async def read_request(request: Request, schema: type[Schema], *, any_type: bool = False) -> Schema:
    """The fields of a request whose body is JSON. `any_type`: it need not be called JSON, unless a
    browser sends it, whose pages could then post to us. Raises UnsupportedMediaType,
    RequestTooLarge, InvalidRequest or ClientGone."""
    settings = services_of(request).settings
    _check_type(request, any_type=any_type)
    body = await _read(request, settings.max_body_bytes)
    context_of(request.scope).num_body_bytes = len(body)
    return await beside_loop(request, lambda: parse(schema, parse_object(body), settings))


async def beside_loop(request: Request, work: Callable[[], Result]) -> Result:
    """Runs work on the fields of a request: on the event loop if its body was small."""
    return await off_loop(context_of(request.scope).num_body_bytes, work, inline=INLINE_BYTES)


async def convert(request: Request, schema: type[Schema], body: dict[str, Any]) -> Schema:
    """The fields that a request of another API became. Raises InvalidRequest."""
    settings = services_of(request).settings
    return await beside_loop(request, lambda: parse(schema, body, settings))


def _check_type(request: Request, *, any_type: bool) -> None:
    """Raises UnsupportedMediaType."""
    headers = request.headers
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType(
            "bodies with a Content-Encoding are not read: send it without compression"
        )
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_trusted = any_type and not any(name in headers for name in _OF_BROWSERS)
    if media_type != "application/json" and not is_trusted:
        raise UnsupportedMediaType("send the body as JSON with Content-Type: application/json")


async def _read(request: Request, limit: int) -> bytes:
    too_large = RequestTooLarge(f"the request body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise too_large
    except ClientDisconnect as error:
        raise ClientGone("the client closed the connection") from error
    return bytes(body)
