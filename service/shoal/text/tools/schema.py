"""JSON Schemas of arguments as rules of a Lark grammar."""

import json
from collections.abc import Mapping
from typing import Any

from shoal.errors import InvalidRequest

_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}
"""Of llguidance: JSON as chat templates write it, nothing of a schema is left out."""
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties",
              "unevaluatedProperties", "dependentSchemas")  # fmt: skip
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum",
           "const", "format")  # fmt: skip
_MAX_EXACT = 2**53 - 1
_SHARED = ("$defs", "definitions")
_FLAT = {"type", "properties", "required", "additionalProperties", "title", "description",
         "$schema", "$id", *_SHARED}  # fmt: skip
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
NO_ARGUMENTS: Mapping[str, Any] = {
    "type": "object", "properties": {}, "additionalProperties": False,
}  # fmt: skip


def closed(schema: Any) -> Any:
    """The schema without what it leaves open: properties that it does not name, and integers that
    no reader of JSON holds exactly. What follows it follows the given one too, and a model is not
    led to invent properties or to write digits without end. Parts that are combined with others
    stay as they are."""
    if not isinstance(schema, dict) or any(key in schema for key in _COMBINING):
        return schema
    result = dict(schema)
    if schema.get("type") == "integer" and not any(key in schema for key in _BOUNDS):
        result.update(minimum=-_MAX_EXACT, maximum=_MAX_EXACT)
    if isinstance(properties := schema.get("properties"), dict):
        result["properties"] = {name: closed(part) for name, part in properties.items()}
        result.setdefault("additionalProperties", False)
    if isinstance(items := schema.get("items"), dict):
        result["items"] = closed(items)
    return result


def json_rule(name: str, schema: Mapping[str, Any]) -> str:
    """A rule for JSON that follows the schema."""
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': _OPTIONS})}"


def keyword_rules(name: str, schema: Mapping[str, Any]) -> list[str]:
    """Rules for Python keyword arguments whose object follows the schema. Raises InvalidRequest
    for one that is more than a list of properties."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    if not set(schema) <= _FLAT:
        raise InvalidRequest(
            "functions of this model's format can be forced only where their parameters are an "
            f"object of properties; not with {min(set(schema) - _FLAT)[:40]}",
            code="invalid_schema",
            param="tools",
        )
    if not properties and schema.get("additionalProperties") is not False:
        value = _value_rule(f"{name}_value", {})
        keyword = f'{name}_one: /[A-Za-z_][A-Za-z0-9_]*/ "=" {name}_value'
        return [f'{name}: ({name}_one (", " {name}_one)*)?', keyword, value]
    required = schema.get("required", [])
    shared = {key: schema[key] for key in _SHARED if key in schema}
    rules = [f"{name}: {name}_first_0"]
    for i, (key, part) in enumerate(properties.items()):
        if not (key.isascii() and key.isidentifier()):
            raise InvalidRequest(
                f"the property {key[:40]!r} cannot be a keyword argument, as this model's format "
                "writes them",
                code="invalid_schema",
                param="tools",
            )
        item, rest = f'"{key}=" {name}_{i}', f"{name}_next_{i + 1}"
        skip = key not in required
        rules += [
            f"{name}_first_{i}: {item} {rest}" + f" | {name}_first_{i + 1}" * skip,
            f'{name}_next_{i}: ", " {item} {rest}' + f" | {rest}" * skip,
            _value_rule(f"{name}_{i}", {**shared, **part} if isinstance(part, dict) else part),
        ]
    last = len(properties)
    return [*rules, f'{name}_first_{last}: ""', f'{name}_next_{last}: ""']


def _value_rule(name: str, schema: Any) -> str:
    """Python's words for JSON's true, false and null, where they stand alone."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "boolean" and "enum" not in schema and "const" not in schema:
        return f'{name}: "True" | "False"'
    if kind == "null":
        return f'{name}: "None"'
    if schema == {}:
        return f'{name}: "True" | "False" | "None" | %json {{}}'
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": _OPTIONS}
    return f"{name}: %json {json.dumps(schema)}"
