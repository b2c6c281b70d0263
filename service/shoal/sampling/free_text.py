"""Free text in an answer: where a grammar allows any text, its matcher need not be asked.

Inside a string of JSON whose length has no upper limit and that no pattern describes, every plain
token may come after every other, and none forces what follows. A matcher is in such a string if it
would accept a text that the schema itself does not hold: strings that are listed cannot spell it,
and nothing outside a string can. Once the string is longer than any listed one, and than any that
is too short, further plain tokens change nothing: what may follow stays the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

_ENDS_STRING = frozenset('"\\\x7f') | frozenset(map(chr, range(0x20)))
"""Characters that end a string, begin an escape or cannot stand in one."""
_PROBE = "zqx jqz wqx"
"""Its first character continues neither a number, an escape nor a literal."""
_SCHEMAS = {"items", "additionalProperties"}
_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_MAPS = {"properties", "$defs", "definitions"}
_VALUES = {"enum", "const", "required"}
_WITHOUT_STRINGS = {
    "type", "$ref", "title", "description", "default", "examples", "$schema", "$id", "$comment",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems",
    "maxItems", "minProperties", "maxProperties",
}  # fmt: skip
_SEPARATORS = (",", ":")
_NONE = -1
"""Shorter than any string."""


class FreeText(NamedTuple):
    """Of one vocabulary and grammar."""

    num_chars: bytes
    """[num_token_ids] of a plain token, one of whole characters that neither end a string nor
    escape; 0 for the others. 255 stands for more."""
    probe: list[int]
    """Tokens of a text that no schema with free text holds."""
    steady_after: int = 0
    """After more characters than these further ones change nothing; -1: none does."""


def free_text_of(
    token_bytes: Sequence[bytes], encode: Callable[[str], Sequence[int]], ambiguous_ids: Set[int]
) -> FreeText | None:
    """None where the vocabulary cannot spell the probe. `ambiguous_ids`: are not plain."""
    num_chars = bytes(
        0 if i in ambiguous_ids else min(_num_plain_chars(text), 255)
        for i, text in enumerate(token_bytes)
    )
    probe = list(encode(_PROBE))
    is_spelled = b"".join(token_bytes[i] for i in probe) == _PROBE.encode()
    return FreeText(num_chars, probe) if is_spelled else None


def free_text_in(grammar: str, free_text: FreeText) -> FreeText | None:
    """None where the grammar may limit its strings, otherwise than by listing some: it is no JSON
    schema, or has a keyword that is not among those above."""
    (part, *others) = json.loads(grammar)["grammars"]
    if others or "json_schema" not in part or _PROBE in grammar:
        return None
    try:
        return free_text._replace(steady_after=_longest(part["json_schema"]))
    except _LimitedError:
        return None


def _num_plain_chars(text: bytes) -> int:
    try:
        chars = text.decode()
    except UnicodeDecodeError:
        return 0
    return len(chars) if _ENDS_STRING.isdisjoint(chars) else 0


class _LimitedError(Exception):
    """The schema may limit its strings otherwise than by listing some."""


def _longest(schema: Any) -> int:
    """Characters of the longest string that it lists or that is too short for it; -1 without any.
    Raises _LimitedError."""
    if isinstance(schema, bool):
        return _NONE
    if not isinstance(schema, Mapping):
        raise _LimitedError
    return max((_longest_of(*item) for item in schema.items()), default=_NONE)


def _longest_of(keyword: str, value: Any) -> int:
    if keyword in _WITHOUT_STRINGS:
        return _NONE
    if keyword in _VALUES:
        return _longest_in(value)
    if keyword in _SCHEMAS:
        return _longest(value)
    if keyword in _LISTS and isinstance(value, list):
        return max(map(_longest, value), default=_NONE)
    if keyword in _MAPS and isinstance(value, Mapping):
        return max((max(len(name), _longest(part)) for name, part in value.items()), default=_NONE)
    if keyword == "minLength" and isinstance(value, int):
        return max(value - 1, _NONE)
    if (
        keyword == "x-guidance"
        and isinstance(value, Mapping)
        and all(map(_is_harmless, value.values()))
    ):
        return _NONE
    raise _LimitedError


def _is_harmless(option: Any) -> bool:
    return isinstance(option, bool) or option in _SEPARATORS


def _longest_in(value: Any) -> int:
    """Of JSON: its longest string."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return max(map(_longest_in, value), default=_NONE)
    return len(value) if isinstance(value, str) else _NONE
