"""Numbers in request bodies: strict, but 1.0 is the integer 1. None is rounded."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, ValidationInfo, WithJsonSchema

from shoal.server.errors import FieldProblem

_MAX_EXACT = 2.0**53
"""Beyond it a float need not be the integer that was written."""


def _to_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and _is_integer(value) else value


def _is_integer(value: float) -> bool:
    return value.is_integer() and abs(value) <= _MAX_EXACT


Int = Annotated[int, BeforeValidator(_to_integer)]


def id_list(value: list[Any]) -> list[int] | None:
    """The integers of an array, which may be long; None if it holds anything else."""
    kinds = set(map(type, value))
    if kinds <= {int}:
        return value
    if kinds <= {int, float} and all(type(i) is int or _is_integer(i) for i in value):
        return list(map(int, value))
    return None


def _to_ids(value: Any) -> list[int]:
    ids = id_list(value) if isinstance(value, list) else None
    if ids is None:
        raise FieldProblem("must be an array of integers")
    return ids


TokenIds = Annotated[
    list[int],
    PlainValidator(_to_ids),
    WithJsonSchema({"type": "array", "items": {"type": "integer"}}),
]
"""As many as there are: quicker to check than a list of `Int`."""


def at_most(limit: int | str) -> BeforeValidator:
    """Counts the entries of an array or object before each of them is checked. `limit`: a number,
    or the name of the setting that holds it."""

    def check(value: Any, info: ValidationInfo) -> Any:
        most: int = getattr(info.context, limit) if isinstance(limit, str) else limit
        if isinstance(value, (list, dict)) and len(value) > most:
            raise FieldProblem(f"may hold at most {most} entries")
        return value

    return BeforeValidator(check)
