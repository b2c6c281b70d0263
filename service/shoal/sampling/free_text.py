"""Free text in an answer: where a grammar allows any text, its matcher need not be asked.

Inside a string of JSON whose length has no limit and that no pattern describes, every plain token
may come after every other, and none forces what follows. A matcher is in such a string if it would
accept a text that the schema itself does not hold: strings that are listed cannot spell it, and
nothing outside a string can.
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
_OTHERS = {
    "type", "enum", "const", "$ref", "required", "title", "description", "default", "examples",
    "$schema", "$id", "$comment", "minLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "minProperties", "maxProperties",
}  # fmt: skip
_SEPARATORS = (",", ":")


class FreeText(NamedTuple):
    """Of one vocabulary."""

    is_plain: bytes
    """[num_token_ids] 1 for a token of whole characters that neither end a string nor escape."""
    probe: list[int]
    """Plain tokens."""


def free_text_of(
    token_bytes: Sequence[bytes], encode: Callable[[str], Sequence[int]], ambiguous_ids: Set[int]
) -> FreeText | None:
    """None where the vocabulary cannot spell the probe. `ambiguous_ids`: are not plain."""
    is_plain = bytes(i not in ambiguous_ids and _is_plain(t) for i, t in enumerate(token_bytes))
    probe = list(encode(_PROBE))
    is_spelled = b"".join(token_bytes[i] for i in probe) == _PROBE.encode()
    return FreeText(is_plain, probe) if is_spelled and all(is_plain[i] for i in probe) else None


def has_free_text(grammar: str) -> bool:
    """Are its strings free, but for those that it lists? True for JSON schemas of the keywords
    above only: what another one means for a string is not known here."""
    (part, *others) = json.loads(grammar)["grammars"]
    schema = part.get("json_schema")
    return not others and schema is not None and _PROBE not in grammar and _is_free(schema)


def _is_plain(text: bytes) -> bool:
    try:
        return bool(text) and _ENDS_STRING.isdisjoint(text.decode())
    except UnicodeDecodeError:
        return False


def _is_free(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return isinstance(schema, bool)
    return all(_keyword_is_free(keyword, value) for keyword, value in schema.items())


def _keyword_is_free(keyword: str, value: Any) -> bool:
    if keyword in _SCHEMAS:
        return _is_free(value)
    if keyword in _LISTS:
        return isinstance(value, list) and all(map(_is_free, value))
    if keyword in _MAPS:
        return isinstance(value, Mapping) and all(map(_is_free, value.values()))
    if keyword == "x-guidance":
        options = value.values() if isinstance(value, Mapping) else (None,)
        return all(isinstance(option, bool) or option in _SEPARATORS for option in options)
    return keyword in _OTHERS
