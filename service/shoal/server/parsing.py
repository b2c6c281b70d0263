"""The JSON of a request body: counted before it is parsed, since what a parser makes of a small
text can be large, and exact: nothing is rounded, doubled or left out in silence.
"""

import re
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from shoal.config import Settings
from shoal.errors import InvalidRequest
from shoal.server.errors import from_validation, printable

MAX_DEPTH = 64
MAX_CONTAINERS = 32_768
"""Arrays and objects in one body."""
MAX_STRINGS = 65_536
"""Strings in one body, names of fields included."""
_LONG_DIGITS = b"0" * 19
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_INTEGER = re.compile(rb"(?<![\d.eE+-])-?\d{19,}(?![\d.eE])")
_AS_BRACES = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_INTEGERS = range(-(2**63), 2**64)
"""Those that the parser reads exactly; it makes floats of others."""

Schema = TypeVar("Schema", bound=BaseModel)


def parse(schema: type[Schema], body: dict[str, Any], settings: Settings) -> Schema:
    """Validates the body. Raises InvalidRequest with a message that lists the problems."""
    try:
        return schema.model_validate(body, context=settings)
    except ValidationError as error:
        raise from_validation(error, schema) from error


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object without nulls, since null always means not given. Raises InvalidRequest."""
    value = parse_value(body)
    if not isinstance(value, dict):
        raise _not_json("the body must be a JSON object")
    return {name: item for name, item in value.items() if item is not None}


def parse_value(text: bytes, what: str = "the body") -> Any:
    """The value of a JSON text, which errors call `what`. Raises InvalidRequest."""
    structure = _outside_strings(text, what) if len(text) > MAX_CONTAINERS else None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _not_json(
            f"{what} is not valid JSON (line {error.lineno}, column {error.colno})"
        ) from error
    if _LONG_DIGITS in text.translate(_DIGITS_TO_ZERO):
        structure = _outside_strings(text, what) if structure is None else structure
        if any(int(found[:40]) not in _INTEGERS for found in _LONG_INTEGER.findall(structure)):
            raise _too_large_integer(value, what)
    if not _is_flat(text, value):
        _check_shape(text, value, structure or _outside_strings(text, what), what)
    return value


def _not_json(problem: str) -> InvalidRequest:
    return InvalidRequest(problem, code="invalid_json")


def _is_flat(text: bytes, value: Any) -> bool:
    """Is it surely an object with nothing nested in it and no name twice? Most bodies are."""
    return (
        isinstance(value, dict)
        and text.count(b":") == len(value)
        and text.count(b"[") + text.count(b"{") <= MAX_DEPTH
    )


def _outside_strings(text: bytes, what: str) -> bytes:
    """What a JSON text has outside its strings; anything if it is not valid. Raises InvalidRequest
    when it has more parts than a body may have."""
    text = _without_escapes(text)
    if text.count(b'"') > 2 * MAX_STRINGS:
        raise _not_json(f"{what} holds more than {MAX_STRINGS} strings")
    structure = b"".join(text.split(b'"')[::2])
    if structure.count(b"[") + structure.count(b"{") > MAX_CONTAINERS:
        raise _not_json(f"{what} holds more than {MAX_CONTAINERS} arrays and objects")
    return structure


def _without_escapes(text: bytes) -> bytes:
    """JSON whose every quote begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _check_shape(text: bytes, value: Any, structure: bytes, what: str) -> None:
    """Refuses deep nesting, and fields named twice: written again, the value has fewer strings.
    Raises InvalidRequest."""
    left, depth = structure.translate(_AS_BRACES, _NO_BRACKETS), 0
    while left:  # the innermost go first
        depth += 1
        if depth > MAX_DEPTH:
            raise _not_json(f"{what} nests deeper than {MAX_DEPTH} levels")
        left = left.replace(b"{}", b"")
    again = orjson.dumps(value)
    if _without_escapes(again).count(b'"') < _without_escapes(text).count(b'"'):
        raise _not_json(f"{what} names a field twice")


def _too_large_integer(value: Any, what: str) -> InvalidRequest:
    """Names the field that holds an integer which the parser rounded."""
    path: list[str] = []
    while isinstance(value, dict):
        name = next((name for name, item in value.items() if _has_large_float(item)), None)
        if name is None:
            break
        path.append(printable(name))
        value = value[name]
    param = ".".join(path) or None
    return InvalidRequest(
        f"{param or what} holds an integer that has more than 64 bits", param=param
    )


def _has_large_float(value: Any) -> bool:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, float) and abs(item) >= 2**63:
            return True
        if isinstance(item, (dict, list)):
            left += item.values() if isinstance(item, dict) else item
    return False
