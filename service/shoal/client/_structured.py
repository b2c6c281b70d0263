"""Python classes as `response_format`: the JSON schema that is sent, and the reader of the answer.

    class Person(BaseModel):
        name: str
        age: int

    answer = client.chat.parse(messages, Person)
    print(answer.parsed.name)

`create(response_format=Person)` does the same and reads when `.parsed` is first asked for. Give
`completions.parse` enough `max_tokens`: the server's default is short, and a cut text is no JSON.
Every type that pydantic can read will do: models, dataclasses, TypedDicts, `list[Person]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from ._params import ResponseFormat


def reader_of(response_format: Any) -> TypeAdapter[Any] | None:
    """The reader of a class; None for a response_format that is sent as it is."""
    if response_format is None or isinstance(response_format, Mapping):
        return None
    if isinstance(response_format, TypeAdapter):
        return response_format
    try:
        if isinstance(response_format, str):
            raise TypeError(f"got the text {response_format[:40]!r}")
        return _cached_reader(response_format)
    except Exception as error:  # pydantic raises many classes for a type it has no schema for
        raise TypeError(
            f"response_format must be a dict or a type that pydantic reads: {error}"
        ) from error


@lru_cache(maxsize=256)
def _cached_reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def json_schema_format(reader: TypeAdapter[Any], kind: Any) -> ResponseFormat:
    """The response_format to send for a class."""
    schema = strict_schema(reader.json_schema())
    title = schema.get("title") or getattr(kind, "__name__", None) or "answer"
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", title)[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": True},
    }


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every property required and no others, as `strict` demands elsewhere: a
    model then writes each field, also one that has a default."""
    strict = {name: _strict_part(name, value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        strict["required"] = list(schema["properties"])
        strict.setdefault("additionalProperties", False)
    return strict


_BY_NAME = {"properties", "$defs", "definitions"}
_OF_SCHEMAS = {"anyOf", "oneOf", "allOf", "prefixItems"}


def _strict_part(name: str, value: Any) -> Any:
    if name in _BY_NAME and isinstance(value, dict):
        return {key: strict_schema(part) for key, part in value.items()}
    if name in _OF_SCHEMAS and isinstance(value, list):
        return [strict_schema(part) for part in value]
    if name in {"items", "additionalProperties"} and isinstance(value, dict):
        return strict_schema(value)
    return value
