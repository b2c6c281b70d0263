"""Reads one JSON value character by character, so that a stream can be cut anywhere."""

import re
from enum import Enum, auto

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = ("true", "false", "null")
_WORD_CHARS = frozenset("+-.0123456789Eabcdefghijklmnopqrstuvwxyz")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SPACE = frozenset(" \t\n\r")
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSING = {"{": "}", "[": "]"}
MAX_DEPTH = 64


class Read(Enum):
    """What a character did."""

    PART = auto()
    """It belongs to the value, which goes on."""
    LAST = auto()
    """It is the last of the value."""
    AFTER = auto()
    """The value ended before it: a number or a word has no mark of its end."""
    BAD = auto()
    """It cannot stand here."""


class JsonValue:
    """One value. Its first character is that of the value; no space before it."""

    __slots__ = ("_escape", "_expects", "_in_string", "_open", "_word")

    def __init__(self) -> None:
        self._open: list[str] = []
        """Closing brackets still to come."""
        self._expects = "value"
        """value, first value or ], key, first key or }, colon, comma."""
        self._in_string = False
        self._escape = 0
        """In a string: 0 no escape, -1 behind a backslash, n hex digits to come."""
        self._word = ""

    def skip(self, text: str, at: int) -> int:
        """Where the characters from `at` on end that are plain ones inside a string: they belong to
        the value and change nothing, so they need no `push`."""
        if not self._in_string or self._escape:
            return at
        plain = _PLAIN.match(text, at)
        assert plain is not None, "it matches nothing, too"
        return plain.end()

    def push(self, char: str) -> Read:
        if self._in_string:
            return self._string(char)
        if self._word:
            if char in _WORD_CHARS:
                self._word += char
                return Read.PART
            if not (self._word in _WORDS or _NUMBER.fullmatch(self._word)):
                return Read.BAD
            self._word = ""
            if not self._open:
                return Read.AFTER
            self._expects = "comma"
        if char in _SPACE:
            return Read.PART
        return self._structure(char)

    def _structure(self, char: str) -> Read:
        expects = self._expects
        if self._open and char == self._open[-1]:
            if expects not in ("comma", f"first {char}"):
                return Read.BAD
            self._open.pop()
            return self._value_ended()
        if expects == "comma":
            if char != ",":
                return Read.BAD
            self._expects = "key" if self._open[-1] == "}" else "value"
        elif expects == "colon":
            if char != ":":
                return Read.BAD
            self._expects = "value"
        elif expects in ("key", "first }"):
            if char != '"':
                return Read.BAD
            self._in_string, self._expects = True, "key"
        else:
            return self._value(char)
        return Read.PART

    def _value(self, char: str) -> Read:
        if char in _CLOSING:
            if len(self._open) >= MAX_DEPTH:
                return Read.BAD
            self._open.append(_CLOSING[char])
            self._expects = f"first {_CLOSING[char]}"
        elif char == '"':
            self._in_string, self._expects = True, "value"
        elif char in _WORD_CHARS:
            self._word = char
        else:
            return Read.BAD
        return Read.PART

    def _string(self, char: str) -> Read:
        if self._escape > 0:
            self._escape -= 1
            return Read.PART if char in _HEX else Read.BAD
        if self._escape < 0:
            self._escape = 4 if char == "u" else 0
            return Read.PART if char in '"\\/bfnrtu' else Read.BAD
        if char == '"':
            self._in_string = False
            if self._expects == "key":
                self._expects = "colon"
                return Read.PART
            return self._value_ended()
        if char < " ":
            return Read.BAD
        if char == "\\":
            self._escape = -1
        return Read.PART

    def _value_ended(self) -> Read:
        if not self._open:
            return Read.LAST
        self._expects = "comma"
        return Read.PART
