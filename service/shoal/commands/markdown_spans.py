"""Marks inside a line of Markdown: strong, emphasised, struck out, code, links, escapes.

A span is known once its closing mark and the character behind that are there, so what is found does
not depend on how the text was cut into pieces. A mark that closes nothing stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Emit = Callable[[str, frozenset[str]], None]
"""Takes a text and its styles: of strong, emphasis, strike, code, link, dim."""

MAX_SPAN_CHARS = 1000
"""A longer one is taken as it stands, so that an open mark does not hold back an answer."""

_MARKS = re.compile(r"[`*_~\[\\]")
_SPANS = {
    "code": re.compile(r"(?P<run>`+)(?!`)(?P<text>.+?)(?<!`)(?P=run)(?!`)"),
    "strong emphasis": re.compile(r"\*\*\*(?=[^\s*])(?P<text>.+?)(?<=[^\s*])\*\*\*(?!\*)"),
    "strong": re.compile(r"(\*\*|__)(?=[^\s*_])(?P<text>.+?)(?<=[^\s*_])\1(?![*A-Za-z0-9_])"),
    "emphasis": re.compile(r"([*_])(?=[^\s*_])(?P<text>.+?)(?<=[^\s*_])\1(?![*A-Za-z0-9_])"),
    "strike": re.compile(r"~~(?=\S)(?P<text>.+?)(?<=\S)~~(?!~)"),
    "link": re.compile(r"\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+)\)"),
    "escape": re.compile(r"\\(?P<text>[\\`*_{}\[\]()#+\-.!|~>])"),
}
_KINDS = {
    "`": ("code",),
    "*": ("strong emphasis", "strong", "emphasis"),
    "_": ("strong", "emphasis"),
    "~": ("strike",),
    "[": ("link",),
    "\\": ("escape",),
}
_RUN = re.compile(r"(.)\1*")


def read_spans(text: str, before: str, is_whole: bool, emit: Emit, styles: frozenset[str]) -> int:
    """Emits as much of one line as is certain and returns how many characters that was. `before`:
    the character in front of it. `is_whole`: the line does not go on."""
    at = 0
    while at < len(text):
        found = _MARKS.search(text, at)
        if found is None:
            emit(text[at:], styles)
            return len(text)
        if found.start() > at:
            emit(text[at : found.start()], styles)
            at = found.start()
        length = _read_mark(text, at, text[at - 1] if at else before, is_whole, emit, styles)
        if length is None:
            return at
        at += length
    return at


def _read_mark(
    text: str, at: int, before: str, is_whole: bool, emit: Emit, styles: frozenset[str]
) -> int | None:
    """Emits the span that begins with a mark, or the mark itself; None = not certain yet."""
    run = _RUN.match(text, at)
    if run is None:
        return None
    if run.end() == len(text) and not is_whole:
        return None
    if _can_open(text, run, before):
        for kind in _KINDS[text[at]]:
            span = _SPANS[kind].match(text, at, at + MAX_SPAN_CHARS)
            if span is not None and (is_whole or span.end() < len(text)):
                _emit_span(kind, span, emit, styles)
                return span.end() - at
        if not is_whole and len(text) - at <= MAX_SPAN_CHARS:
            return None
    length = len(run[0]) if text[at] in "`*_~" else 1
    emit(text[at : at + length], styles)
    return length


def _can_open(text: str, run: re.Match[str], before: str) -> bool:
    """Is it a mark that a span may begin with? Inside a word, as in 2*3 or a_name, it is not."""
    mark, behind = run[1], text[run.end() : run.end() + 1]
    if mark in "*_":
        in_word = before.isascii() and (before.isalnum() or before == mark)
        return not in_word and bool(behind.strip()) and len(run[0]) <= 3
    return mark != "~" or len(run[0]) == 2


def _emit_span(kind: str, span: re.Match[str], emit: Emit, styles: frozenset[str]) -> None:
    inner = span["text"]
    if kind == "escape":
        emit(inner, styles)
    elif kind == "code":
        emit(inner.strip() or inner, styles | {"code"})
    elif kind == "link":
        emit(inner, styles | {"link"})
        if span["target"] != inner:
            emit(f" ({span['target']})", styles | {"dim"})
    else:
        read_spans(inner, "", True, emit, styles | set(kind.split()))


def without_marks(text: str) -> str:
    """The text of a line as it is shown, without styles."""
    pieces: list[str] = []
    read_spans(text, "", True, lambda piece, styles: pieces.append(piece), frozenset())
    return "".join(pieces)
