"""Random tools, and whether arguments follow their schemas."""

import random
from typing import Any

_WORDS = ("city", "date", "count", "price", "unit", "note", "tags", "who", "active", "mode", "x_1")


def random_tool(seed: int) -> dict[str, Any]:
    """A tool in OpenAI's shape: nested objects, arrays, enums, references, limits."""
    rng = random.Random(seed)
    definitions = {"color": {"enum": ["red", "green", "blue"]}}
    parameters = _object(rng, depth=2)
    if rng.random() < 0.3:
        parameters["properties"]["shade"] = {"$ref": "#/$defs/color"}
        parameters["$defs"] = definitions
        if rng.random() < 0.5:
            parameters["required"].append("shade")
    name = f"{rng.choice(['get', 'set', 'find', 'book'])}_{rng.choice(_WORDS)}_{seed}"
    description = f"Will {name.replace('_', ' ')} for the user."
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_WORDS, rng.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        **({"additionalProperties": False} if rng.random() < 0.5 else {}),
    }


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["string", "short", "enum", "integer", "range", "number", "boolean", "date"]
    kind = rng.choice(kinds + ["object", "array", "either"] * (depth > 0))
    match kind:
        case "short":
            return {"type": "string", "minLength": 1, "maxLength": 12, "description": "few words"}
        case "enum":
            return {"type": "string", "enum": rng.sample(["a", "b c", 'd"e', "é", "high"], 3)}
        case "range":
            return {"type": "integer", "minimum": rng.randint(-5, 0), "maximum": rng.randint(1, 90)}
        case "date":
            return {"type": "string", "pattern": "^[0-9]{4}-[01][0-9]$"}
        case "object":
            return _object(rng, depth - 1)
        case "array":
            return {"type": "array", "items": _value(rng, 0), "minItems": 1, "maxItems": 3}
        case "either":
            return {"anyOf": [{"type": "null"}, {"type": "integer"}]}
        case "string":
            return {"type": "string", "maxLength": 40}
    return {"type": kind}


def follows(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> bool:
    """Does a value follow a schema of the kinds above?"""
    root = root or schema
    if "$ref" in schema:
        return follows(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(follows(value, option, root) for option in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    match schema.get("type"):
        case "object":
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value) <= set(schema["properties"])
                and all(follows(v, schema["properties"][k], root) for k, v in value.items())
            )
        case "array":
            return (
                isinstance(value, list)
                and schema["minItems"] <= len(value) <= schema["maxItems"]
                and all(follows(item, schema["items"], root) for item in value)
            )
        case "string":
            if "pattern" in schema:
                return isinstance(value, str) and len(value) == 7 and value[4] == "-"
            return isinstance(value, str) and (
                schema.get("minLength", 0) <= len(value) <= schema["maxLength"]
            )
        case "integer":
            return type(value) is int and (
                schema.get("minimum", value) <= value <= schema.get("maximum", value)
            )
        case "number":
            return type(value) in (int, float)
        case "boolean":
            return isinstance(value, bool)
    return value is None
