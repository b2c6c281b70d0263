"""Reads a request body as JSON: limits its size while reading and parses it strictly."""

import re
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from shoal.errors import ClientGone, InvalidRequest, RequestTooLarge, UnsupportedMediaType
from shoal.server.errors import from_validation
from shoal.server.services import services_of

MAX_DEPTH = 64
_OF_BROWSERS = ("origin", "sec-fetch-site", "referer")

Schema = TypeVar("Schema", bound=BaseModel)


async def read_json(request: Request, *, any_type: bool = False) -> dict[str, Any]:
    """The request's JSON object without nulls, since null always means not given. `any_type`: it
    need not be called JSON, unless a browser sends it, whose pages could then post to us.
    Raises UnsupportedMediaType, RequestTooLarge, InvalidRequest or ClientGone."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_trusted = any_type and not any(name in request.headers for name in _OF_BROWSERS)
    if media_type != "application/json" and not is_trusted:
        raise UnsupportedMediaType("send the body as JSON with Content-Type: application/json")
    value = _parse(await _read(request, services_of(request).settings.max_body_bytes))
    return {name: item for name, item in value.items() if item is not None}


def parse(schema: type[Schema], body: dict[str, Any]) -> Schema:
    """Validates the body. Raises InvalidRequest with a message that lists the problems."""
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise from_validation(error, schema) from error


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


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not valid JSON (line {error.lineno}, column {error.colno})",
            code="invalid_json",
        ) from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels", code="invalid_json")
    if _num_names(body, value) > _num_fields(value):
        raise InvalidRequest("the body names a field twice", code="invalid_json")
    return value


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


def _num_names(body: bytes, value: dict[str, Any]) -> int:
    """Number of fields written in valid JSON: the colons outside strings."""
    colons = body.count(b":")
    if colons == len(value):  # the common case: a flat object, no colon in a string
        return colons
    return _STRING.sub(b"", body).count(b":")


def _num_fields(value: object) -> int:
    """Number of fields of all objects in a parsed value."""
    num_fields, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            num_fields += len(item)
            left += item.values()
        elif isinstance(item, list) and item and isinstance(item[0], (dict, list)):
            left += item
    return num_fields


def _depth(value: object) -> int:
    """Nesting depth, computed without recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > MAX_DEPTH:
            return deepest
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
    return deepest
