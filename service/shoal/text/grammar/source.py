"""Specs to the text of their grammar, as llguidance reads it. Nothing is checked here."""

import json
from collections.abc import Callable
from typing import Any

from shoal.text.grammar.spec import (
    Choice,
    GrammarSpec,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    Schema,
    Tag,
    Tagged,
)

SpecialId = Callable[[str], int | None]
"""Name -> id of a special token, None where it is plain text."""

_COMPACT = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
"""Options of llguidance: no spaces between the parts of JSON, nothing of a schema is left out."""


def grammar_source(spec: GrammarSpec, special_id: SpecialId) -> dict[str, Any]:
    """What the worker needs of a spec without copies: "schema" or "lark", or what only llguidance
    turns into Lark, "regex" or "grammar"."""
    match spec:
        case JsonObject():
            return {"schema": compact({"type": "object"})}
        case JsonSchema(schema):
            return {"schema": compact(schema)}
        case Regex(pattern):
            return {"regex": _unanchored(pattern)}
        case Choice(options):
            return {"lark": "start: " + " | ".join(map(literal, dict.fromkeys(options)))}
        case Lark(grammar):
            return {"grammar": grammar}
        case Tagged():
            return {"lark": _tagged(spec, special_id)}


def compact(schema: Schema) -> dict[str, Any]:
    """The same schema with our options; `true` and `false` as objects."""
    if isinstance(schema, bool):
        return {"x-guidance": _COMPACT, **({} if schema else {"enum": []})}
    return {**schema, "x-guidance": _COMPACT}


def literal(text: str) -> str:
    """A text as it stands in Lark."""
    return json.dumps(text, ensure_ascii=False)


def _unanchored(pattern: str) -> str:
    """A pattern always matches as a whole: anchors around it say the same."""
    pattern = pattern.removeprefix("^")
    num_backslashes = len(pattern[:-1]) - len(pattern[:-1].rstrip("\\"))
    return pattern[:-1] if pattern.endswith("$") and num_backslashes % 2 == 0 else pattern


def _tagged(spec: Tagged, special_id: SpecialId) -> str:
    """`TEXT trigger rest` for each tag. A lazy text ends where the trigger does."""
    rules: list[str] = []
    for index, tag in enumerate(spec.tags):
        trigger = next(t for t in spec.triggers if tag.begin.startswith(t))
        parts = [_parts(tag, trigger)]
        if (token_id := special_id(trigger)) is not None:
            head = f"TEXT <[{token_id}]>" if spec.free_text else f"<[{token_id}]>"
        elif spec.free_text:
            rules.append(f"head_{index}[lazy]: TEXT {literal(trigger)}")
            head = f"head_{index}"
        else:
            head = literal(trigger)
        rules.append(f"tag_{index}: {' '.join([head, *parts])}")
    any_tag = "(" + " | ".join(f"tag_{index}" for index in range(len(spec.tags))) + ")"
    return "\n".join(["%llguidance {}", _start(spec, any_tag), r"TEXT: /(.|\n)*/", *rules])


def _parts(tag: Tag, trigger: str) -> str:
    begin = tag.begin.removeprefix(trigger)
    schema = json.dumps(compact(tag.schema), ensure_ascii=False)
    return " ".join(
        [*([literal(begin)] if begin else []), f"%json {schema}",
         *([literal(tag.end)] if tag.end else [])]
    )  # fmt: skip


def _start(spec: Tagged, any_tag: str) -> str:
    if spec.free_text:
        repeat = ("+" if spec.parallel else "") if spec.at_least_one else "*?"[not spec.parallel]
        return f"start: {any_tag}{repeat} TEXT"
    further = f" ({literal(spec.separator)} {any_tag})*" if spec.separator else ""
    if not spec.parallel:
        return f"start: {any_tag}"
    return f"start: {any_tag}{further}" if further else f"start: {any_tag}+"
