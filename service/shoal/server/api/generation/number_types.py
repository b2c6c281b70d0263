"""Numbers in request bodies: strict, but 1.0 is the integer 1."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def _to_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_to_integer)]
