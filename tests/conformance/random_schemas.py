"""Random JSON schemas and patterns that small models can come to the end of: every string, number
and list has a bound."""

import random
import re
from typing import Any

Schema = dict[str, Any]
NAMES = ("name", "age", "kind", "date_of_birth", "tags", "größe", 'a "b"', "x-y", "nested", "id")
WORDS = ("red", "green", "a longer choice", "déjà vu", 'with "quotes"', "line\nbreak", "", "0")
PATTERNS = (
    "[a-z]{2,5}",
    "^[A-Z][0-9]{1,4}$",
    "(ab|cd)+e?f{1,3}",
    r"\d{3}-\d{4}",
    '^x[^"\\\\]{0,4}$',
)
FORMATS = ("date", "time", "date-time", "ipv4", "uuid", "email", "duration")


def random_schema(seed: int) -> Schema:
    """An object, now and then something else; with definitions that it refers to."""
    rng = random.Random(seed)
    definitions = {f"def{i}": _schema(rng, 1, ()) for i in range(rng.randrange(3))}
    refs = tuple(f"#/$defs/{name}" for name in definitions)
    top = _object(rng, 3, refs) if rng.random() < 0.8 else _schema(rng, 3, refs)
    if rng.random() < 0.15:
        definitions["list"] = {
            "type": "object",
            "properties": {
                "value": _schema(rng, 0, ()),
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
        top = {"anyOf": [{"$ref": "#/$defs/list"}, top]}
    return {**top, "$defs": definitions} if definitions else top


def _schema(rng: random.Random, depth: int, refs: tuple[str, ...]) -> Schema:
    simple = (_string, _integer, _number, _enum, _const, _pattern, _format, _bool_or_null)
    nested = (_object, _array, _any_of, _ref)
    if depth > 0 and rng.random() < 0.5:
        return rng.choice(nested)(rng, depth - 1, refs)
    return rng.choice(simple)(rng)


def _object(rng: random.Random, depth: int, refs: tuple[str, ...]) -> Schema:
    names = rng.sample(NAMES, rng.randint(1, 5))
    schema: Schema = {
        "type": "object",
        "properties": {name: _schema(rng, depth, refs) for name in names},
        "additionalProperties": False,
    }
    if rng.random() < 0.9:
        schema["required"] = rng.sample(names, rng.randint(1, len(names)))
    return schema


def _array(rng: random.Random, depth: int, refs: tuple[str, ...]) -> Schema:
    fewest = rng.randrange(3)
    schema: Schema = {"type": "array", "items": _schema(rng, depth, refs), "minItems": fewest,
                      "maxItems": fewest + rng.randrange(3)}  # fmt: skip
    if rng.random() < 0.2:
        schema["prefixItems"] = [_schema(rng, 0, ())]
        schema["maxItems"] = max(schema["maxItems"], 1)
    return schema


def _any_of(rng: random.Random, depth: int, refs: tuple[str, ...]) -> Schema:
    return {"anyOf": [_schema(rng, depth, refs) for _ in range(rng.randint(2, 3))]}


def _ref(rng: random.Random, depth: int, refs: tuple[str, ...]) -> Schema:
    return {"$ref": rng.choice(refs)} if refs else _schema(rng, 0, ())


def _string(rng: random.Random) -> Schema:
    fewest = rng.randrange(4)
    return {"type": "string", "minLength": fewest, "maxLength": fewest + rng.randint(1, 12)}


def _integer(rng: random.Random) -> Schema:
    low = rng.randint(-1000, 1000)
    schema: Schema = {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)}
    if rng.random() < 0.2:
        schema |= {"minimum": 0, "maximum": 100, "multipleOf": rng.choice((2, 5, 10))}
    return schema


def _number(rng: random.Random) -> Schema:
    low = rng.choice((-5, 0, 0.5, 12))
    key = rng.choice(("maximum", "exclusiveMaximum"))
    return {"type": "number", "minimum": low, key: low + rng.choice((1, 7.5, 100))}


def _enum(rng: random.Random) -> Schema:
    values: list[Any] = [*WORDS, 1, 2.5, None, True]
    return {"enum": rng.sample(values, rng.randint(1, 4))}


def _const(rng: random.Random) -> Schema:
    return {"const": rng.choice([*WORDS, 7, False, {"a": [1, "b"]}])}


def _pattern(rng: random.Random) -> Schema:
    return {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 24}


def _format(rng: random.Random) -> Schema:
    return {"type": "string", "format": rng.choice(FORMATS), "maxLength": 40}


def _bool_or_null(rng: random.Random) -> Schema:
    return {"type": rng.choice(("boolean", "null", ["null", "boolean"]))}


def random_pattern(seed: int) -> str:
    """Python and Rust read it alike."""
    rng = random.Random(seed)
    return "".join(_piece(rng, 2) for _ in range(rng.randint(1, 4)))


def _piece(rng: random.Random, depth: int) -> str:
    atoms = ("a", "xyz", "[a-f]", "[^a-z\\n]", "\\d", "[0-9A-F]", "-", "\\.", "é", "Yes|No", " ")
    atom = rng.choice(atoms)
    if depth and rng.random() < 0.4:
        inner = [_piece(rng, depth - 1) for _ in range(rng.randint(1, 3))]
        atom = "|".join(inner) if rng.random() < 0.5 else "".join(inner)
    is_one = len(atom) == 1 or re.fullmatch(r"\\.|\[[^]]*\]", atom)
    return (atom if is_one else f"({atom})") + rng.choice(("", "", "?", "{2}", "{0,3}", "{1,4}"))
