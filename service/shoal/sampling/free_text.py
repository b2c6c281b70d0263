"""Free text in an answer: where a grammar allows any text, its matcher need not be asked.

Inside a string of JSON whose length has no upper limit and that no pattern describes, every plain
token may come after every other, and none forces what follows. A matcher is in such a string if it
would accept a text that the schema itself does not hold: strings that are listed cannot spell it,
and nothing outside a string can. Once the string is longer than any listed one, and than any that
is too short, further plain tokens change nothing: what may follow stays the same, whatever the
text; so it is as soon as the string is no beginning of those listed, nor too short. Behind the
quote that ends it it is enough if it is none of them. A string that is much too short for any
length that is asked for may not end with the next token, so there too the same may follow.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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
_QUOTE = b'"'
_HAS_CONTROL = re.compile(rb'[^"]*[\x00-\x1f]')
"""Before a quote."""


class End(NamedTuple):
    """Of a string, by a token."""

    head: bytes
    """Its plain text before the quote."""
    text: bytes
    """From the quote on."""

    @property
    def is_outside(self) -> bool:
        """Is it sure that it begins no other string?"""
        return self.text.count(_QUOTE) == 1


class FreeText(NamedTuple):
    """Of one vocabulary and grammar."""

    num_chars: bytes
    """[num_token_ids] of a plain token, one of whole characters that neither end a string nor
    escape; 0 for the others, and for those of more than 255."""
    probe: list[int]
    """Tokens of a text that no schema with free text holds."""
    ends: Mapping[int, End] = {}
    """[token]"""
    never: Set[int] = frozenset()
    """Tokens that come in no string."""
    token_bytes: Sequence[bytes] = ()
    listed: tuple[str, ...] = ()
    """Strings that a schema names."""
    lengths: tuple[int, ...] = ()
    """Characters that strings must have."""
    least_chars: int = 0
    """No string is too short with so many."""
    steady_after: int = -1
    """After more characters than these further ones change nothing; -1: none does."""
    most_before_end: int = 0
    """Characters of a token before a quote."""
    by_text: Sequence[int] = ()
    """The plain tokens, in order of their text."""

    def waits(self, string: str | None) -> int:
        """Behind this beginning of a string, None where it is not known: after more characters than
        these further ones may change nothing; -1: none does."""
        if string is None:
            return self.steady_after
        for listed in self.listed:
            if listed.startswith(string):
                return 0
        return max(self.least_chars - 1 - len(string), -1)

    def stays(self, string: str | None) -> int:
        """Behind this beginning of a string: so many more characters leave what may follow the
        same, where it waits."""
        if string is None or self.waits(string) <= 0:
            return 0
        sure = len(string) + self.most_before_end  # with the next token it may be as long
        return max(min(n for n in self.lengths if n > len(string)) - 1 - sure, 0)

    def not_steady_behind(self, string: str | None) -> list[int] | None:
        """Plain tokens with which this beginning of a string still waits; None where they would be
        too many to name."""
        if string is None:
            return []
        if len(string) + 1 < self.least_chars:
            return None
        found: list[int] = []
        for listed in self.listed:
            if listed.startswith(string):
                rest = listed[len(string) :].encode()
                for end in range(1, len(rest) + 1):
                    found += self._plain_tokens_of(rest[:end])
        return found

    def _plain_tokens_of(self, text: bytes) -> Sequence[int]:
        key = self.token_bytes.__getitem__
        start = bisect_left(self.by_text, text, key=key)
        return self.by_text[start : bisect_right(self.by_text, text, start, key=key)]

    def text(self, token_ids: Sequence[int]) -> str:
        """Of plain tokens."""
        return b"".join([self.token_bytes[i] for i in token_ids]).decode()

    def is_unlisted(self, token_ids: Sequence[int], head: bytes) -> bool:
        """Is a string none of those listed, nor too short, that ends with these plain tokens and
        this text?"""
        text = self.text(token_ids) + head.decode()
        return len(text) >= self.least_chars and not any(s.endswith(text) for s in self.listed)


def free_text_of(
    token_bytes: Sequence[bytes],
    encode: Callable[[str], Sequence[int]],
    ambiguous_ids: Set[int],
    special_ids: Set[int] = frozenset(),
) -> FreeText | None:
    """None where the vocabulary cannot spell the probe. `ambiguous_ids`: are not plain.
    `special_ids`: do not stand for their text."""
    num_chars = bytes(
        0 if i in ambiguous_ids or (num := _num_plain_chars(text)) > 255 else num
        for i, text in enumerate(token_bytes)
    )
    most_before_end = max((text.rfind(_QUOTE) for text in token_bytes), default=0)  # bytes, escapes
    probe = list(encode(_PROBE))
    is_spelled = b"".join(token_bytes[i] for i in probe) == _PROBE.encode()
    ends: dict[int, End] = {}
    for token_id, text in enumerate(token_bytes):
        head, quote, tail = text.partition(_QUOTE)
        if quote and token_id not in ambiguous_ids and (not head or _num_plain_chars(head)):
            ends[token_id] = End(head, quote + tail)
    never = frozenset(
        token_id
        for token_id, text in enumerate(token_bytes)
        if not text or token_id in special_ids or _HAS_CONTROL.match(text)
    )
    if not is_spelled:
        return None
    by_text = sorted(
        filter(num_chars.__getitem__, range(len(num_chars))), key=token_bytes.__getitem__
    )
    return FreeText(
        num_chars, probe, ends, never, token_bytes,
        most_before_end=max(most_before_end, 0), by_text=by_text,
    )  # fmt: skip


def free_text_in(grammar: str, free_text: FreeText) -> FreeText | None:
    """None where the grammar may limit its strings, otherwise than by listing some: it is no JSON
    schema, or has a keyword that is not among those above."""
    (part, *others) = json.loads(grammar)["grammars"]
    if others or "json_schema" not in part or _PROBE in grammar:
        return None
    try:
        named = list(_named(part["json_schema"]))
    except _LimitedError:
        return None
    listed = tuple(sorted({one for one in named if isinstance(one, str)}))
    lengths = tuple(sorted({one for one in named if isinstance(one, int)}))
    least = max(lengths, default=0)
    steady_after = max((least - 1, *map(len, listed)), default=-1)
    return free_text._replace(
        listed=listed, lengths=lengths, least_chars=least, steady_after=steady_after
    )


def _num_plain_chars(text: bytes) -> int:
    try:
        chars = text.decode()
    except UnicodeDecodeError:
        return 0
    return len(chars) if _ENDS_STRING.isdisjoint(chars) else 0


class _LimitedError(Exception):
    """The schema may limit its strings otherwise than by listing some."""


def _named(schema: Any) -> Iterator[str | int]:
    """The strings that it lists, and the lengths that are enough for it. Raises _LimitedError."""
    if isinstance(schema, Mapping):
        for keyword, value in schema.items():
            yield from _named_by(keyword, value)
    elif not isinstance(schema, bool):
        raise _LimitedError


def _named_by(keyword: str, value: Any) -> Iterator[str | int]:
    if keyword in _WITHOUT_STRINGS:
        return
    if keyword in _VALUES:
        yield from _strings_in(value)
    elif keyword in _SCHEMAS:
        yield from _named(value)
    elif keyword in _LISTS and isinstance(value, list):
        for part in value:
            yield from _named(part)
    elif keyword in _MAPS and isinstance(value, Mapping):
        yield from value
        for part in value.values():
            yield from _named(part)
    elif keyword == "minLength" and isinstance(value, int):
        yield value
    elif not (
        keyword == "x-guidance"
        and isinstance(value, Mapping)
        and all(map(_is_harmless, value.values()))
    ):
        raise _LimitedError


def _is_harmless(option: Any) -> bool:
    return isinstance(option, bool) or option in _SEPARATORS


def _strings_in(value: Any) -> Iterator[str]:
    """Of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for part in value.values():
            yield from _strings_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings_in(part)
