"""The text of a message before its calls (`tool_choice: auto`), where a matcher need not be asked.

Any text may come there, up to a mark that begins calls. A token without the first character of a
mark changes nothing, once so much text has come since the last such character that no mark is
begun: what may follow stays the same, and nothing is forced.
"""

import json
import re
from collections.abc import Sequence, Set
from typing import NamedTuple

_LINE = re.compile(r"(\w+(?:\[lazy\])?): (.+)")
_LEAD = re.compile(r"lead_\d+")
_SPELLED = re.compile(r'FREE ("(?:[^"\\]|\\.)+")')
_FIXED = (
    ("TEXT", r"/(.|\n)*/"), ("start", "answer"), ("content", "FREE"), ("FREE", "TEXT"),
)  # fmt: skip


class Mark(NamedTuple):
    """What begins calls."""

    text: str
    token_id: int | None
    """Of a token that stands for it; it may be spelled as well."""


class LeadText(NamedTuple):
    """Of one vocabulary and grammar."""

    num_chars: bytes
    """[num_token_ids] of a plain token, one of whole characters that are the first of no mark; 0
    for the others. 255 stands for more."""
    token_bytes: Sequence[bytes]
    marks: tuple[bytes, ...]
    mark_ids: Set[int]


class Lead:
    """The text of one sequence."""

    def __init__(self, text: LeadText) -> None:
        self._text = text
        self._longest = max(map(len, text.marks))
        self._num_plain = self._longest  # characters at its end, in plain tokens
        self._end = b""  # in which a mark may have begun
        self._is_over = False

    def is_free_behind(self, token_id: int) -> bool:
        """May any plain tokens follow this one, unseen? They are not told here."""
        text = self._text
        num_chars, token = text.num_chars[token_id], text.token_bytes[token_id]
        self._num_plain = self._num_plain + num_chars if num_chars else 0
        self._end += token
        is_mark = token_id in text.mark_ids or any(mark in self._end for mark in text.marks)
        self._is_over |= is_mark or not token
        self._end = self._end[-self._longest :]
        return not self._is_over and self._num_plain >= self._longest


def lead_text_of(
    marks: Sequence[Mark], token_bytes: Sequence[bytes], ambiguous_ids: Set[int]
) -> LeadText:
    """`ambiguous_ids`: are not plain."""
    firsts = frozenset(mark.text[0] for mark in marks)
    mark_ids = frozenset(mark.token_id for mark in marks if mark.token_id is not None)
    num_chars = bytes(
        0 if i in ambiguous_ids or i in mark_ids else min(_num_plain_chars(text, firsts), 255)
        for i, text in enumerate(token_bytes)
    )
    return LeadText(num_chars, token_bytes, tuple(mark.text.encode() for mark in marks), mark_ids)


def marks_in(grammar: str) -> tuple[Mark, ...]:
    """The marks that end the text before calls; none where the grammar is not one that
    `MessageGrammar` makes of calls behind marks, without reasoning before them."""
    (part, *others) = json.loads(grammar)["grammars"]
    first, *lines = part.get("lark_grammar", "").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines]
    rules = {match[1]: match[2] for match in matches if match}
    if others or len(part) > 1 or first != "%llguidance {}" or len(rules) < len(lines):
        return ()
    num_marks = sum(_LEAD.fullmatch(name) is not None for name in rules)
    answer = " | ".join(["content", *(f"lead_{i} calls" for i in range(num_marks))])
    if not num_marks or any(
        rules.get(name) != body for name, body in (*_FIXED, ("answer", answer))
    ):
        return ()
    marks = [_mark(rules, f"lead_{i}") for i in range(num_marks)]
    found = tuple(mark for mark in marks if mark is not None)
    return found if len(found) == num_marks else ()


def _mark(rules: dict[str, str], lead: str) -> Mark | None:
    """With which a rule ends; None where it is another kind of rule."""
    spelled = _SPELLED.fullmatch(rules.get(f"{lead}_spelled[lazy]", ""))
    either = re.fullmatch(rf"{lead}_spelled(?: \| FREE <\[(\d+)\]>)?", rules.get(lead, ""))
    if spelled is None or either is None:
        return None
    try:
        return Mark(json.loads(spelled[1]), None if either[1] is None else int(either[1]))
    except ValueError:
        return None


def _num_plain_chars(text: bytes, firsts: Set[str]) -> int:
    try:
        chars = text.decode()
    except UnicodeDecodeError:
        return 0
    return len(chars) if firsts.isdisjoint(chars) else 0
