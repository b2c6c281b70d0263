"""The arguments of a tool call, for APIs that show them as an object."""

from typing import Any

from pydantic_core import from_json


def parsed_arguments(text: str) -> dict[str, Any]:
    """The arguments of a tool call as an object: of those that were cut off, the part that is
    there, as clients read it from a stream."""
    try:
        value = from_json(text, allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
