"""Converts errors to the API's JSON body and headers. No other module does."""

import math
import re
from collections.abc import Mapping
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from shoal.errors import InvalidRequest, RateLimited, ShoalError
from shoal.server.admission import MAX_WAIT_S, jittered
from shoal.server.json import dumps

MAX_MESSAGE_CHARS = 1000
MAX_PROBLEMS = 5
_NOT_PRINTABLE = re.compile("[^A-Za-z0-9_.-]")


def error_body(error: ShoalError) -> dict[str, Any]:
    """The `{"error": {...}}` object of the OpenAI API."""
    shape: dict[str, Any] = {
        "message": error.message[:MAX_MESSAGE_CHARS],
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if error.hint is not None:
        shape["hint"] = error.hint
    return {"error": shape}


def error_bytes(error: ShoalError) -> bytes:
    return dumps(error_body(error))


def error_headers(error: ShoalError) -> dict[str, str]:
    """Headers that depend on the error."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        wait_s = jittered(error.retry_after_s)
        if isinstance(error, RateLimited):  # before that it would be refused again
            wait_s = max(wait_s, min(error.retry_after_s, MAX_WAIT_S))
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
        headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
    if isinstance(error, RateLimited) and error.code == "tenant_queue_full":
        headers["x-ratelimit-limit-requests"] = str(error.limit)
        headers["x-ratelimit-remaining-requests"] = "0"
    if error.status == 504 or error.code in ("numerical_error", "poison_request"):
        headers["x-should-retry"] = "false"
    return headers


def from_validation(error: ValidationError, schema: type[BaseModel]) -> InvalidRequest:
    """Rewrites a pydantic error: names fields and limits, without pydantic's internals."""
    problems = error.errors(include_url=False)[:MAX_PROBLEMS]
    first = problems[0]
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, FieldProblem):
        code = inner.code
    return InvalidRequest(
        "; ".join(_describe(problem, schema) for problem in problems),
        code=code,
        param=_path(first["loc"]) or None,
        hint=inner.hint if isinstance(inner, FieldProblem) else None,
    )


class FieldProblem(ValueError):
    """Raised by field validators; the message omits the field's name, which is prepended."""

    def __init__(self, problem: str, *, code: str = "invalid_value", hint: str | None = None):
        super().__init__(problem)
        self.code = code
        self.hint = hint


def _describe(problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    loc, kind, value = problem["loc"], problem["type"], problem["input"]
    name = _path(loc) or "request body"
    field = schema.model_fields.get(str(loc[0])) if len(loc) == 1 else None
    if kind == "missing":
        return f"{name} is required"
    if kind == "value_error":
        return f"{name} {problem['ctx']['error']}" if loc else str(problem["ctx"]["error"])
    if kind.startswith(("greater_than", "less_than")):
        limits = _range(field) if field else str(problem["msg"]).removeprefix("Input should be ")
        return f"{name} must be {limits}; got {_short(value)}"
    limit = problem.get("ctx", {})
    match kind:
        case "string_too_long":
            return f"{name} may have at most {_count(limit['max_length'], 'character')}"
        case "string_too_short":
            return f"{name} must have at least {_count(limit['min_length'], 'character')}"
        case "too_long":
            return f"{name} may hold at most {_count(limit['max_length'], 'entr', 'y', 'ies')}"
        case "too_short":
            return f"{name} must hold at least {_count(limit['min_length'], 'entr', 'y', 'ies')}"
        case "literal_error":
            return f"{name} must be {limit['expected']}; got {_json_type(value)}"
    return f"{name} must be {_EXPECTED.get(kind, 'of another type')}; got {_json_type(value)}"


_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "a boolean",
    "string_type": "a string",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _count(number: int, noun: str, one: str = "", many: str = "s") -> str:
    return f"{number} {noun}{one if number == 1 else many}"


def _range(field: FieldInfo) -> str:
    """ "between 0 and 1", "more than 0 and at most 1", "at least 0"."""
    low = high = ""
    low_open = high_open = False
    for mark in field.metadata:
        match mark:
            case Ge(ge=limit):
                low = f"{limit}"
            case Gt(gt=limit):
                low, low_open = f"{limit}", True
            case Le(le=limit):
                high = f"{limit}"
            case Lt(lt=limit):
                high, high_open = f"{limit}", True
    if low and high and not low_open and not high_open:
        return f"between {low} and {high}"
    parts = [
        f"{'more than' if low_open else 'at least'} {low}" if low else "",
        f"{'less than' if high_open else 'at most'} {high}" if high else "",
    ]
    return " and ".join(part for part in parts if part)


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(printable(str(part)) for part in loc)


def printable(name: str) -> str:
    """A field's name as it may stand in a header or an error."""
    return _NOT_PRINTABLE.sub("_", name[:64])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."


def _json_type(value: object) -> str:
    """The JSON name of a value's type; the value itself is not echoed."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string",
             list: "an array", dict: "an object", type(None): "null"}  # fmt: skip
    return names.get(type(value), "something else")
