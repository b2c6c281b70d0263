"""Reads calls written as Python: [f(a=1, b="x"), g()]. Each call is given out when it is whole."""

import ast
import json
import math
import re
from typing import Any

from shoal.text.tools.scan import Piece, Scan, State

_JSON_WORDS = {"true": True, "false": False, "null": None}
_PLAIN = re.compile(r"[^'\"()\[\]{}\\]+")
_OPEN, _CLOSE = "([{", ")]}"


class PythonicScanner:
    """A CallScanner of a list of calls with keyword arguments."""

    def __init__(self, names: frozenset[str], *, end: str = "") -> None:
        self._names = names
        self._end = end
        self._place = "begin"
        self._raw: list[str] = []
        """What was read of no call yet."""
        self._name = ""
        self._arguments: list[str] = []
        self._depth = 0
        self._quote = ""
        self._is_escaped = False
        self._num_end = 0

    def push(self, text: str) -> Scan:
        pieces: list[Piece] = []
        at = 0
        while at < len(text):
            if self._place == "arguments" and (end := self._plain_end(text, at)) > at:
                self._raw.append(text[at:end])
                self._arguments.append(text[at:end])
                at = end
                continue
            self._raw.append(text[at])
            state = self._take(text[at], pieces)
            if state is State.FAILED:
                return Scan(state, pieces, content="".join(self._raw[:-1]), unread=text[at:])
            at += 1
            if state is State.DONE:
                return Scan(state, pieces, unread=text[at:])
        return Scan(State.OPEN, pieces)

    def finish(self) -> str:
        return "" if self._place in ("between", "end") else "".join(self._raw)

    def _plain_end(self, text: str, at: int) -> int:
        """Where the characters from `at` on end that neither quote nor bracket anything."""
        plain = _PLAIN.match(text, at)
        return plain.end() if plain is not None and not self._is_escaped else at

    def _take(self, char: str, pieces: list[Piece]) -> State:
        if self._place == "arguments":
            return self._in_arguments(char, pieces)
        if char.isspace() and not (self._name or self._num_end):
            return State.OPEN
        match self._place, char:
            case ("begin", "["):
                self._place = "name"
            case ("name", "(") if self._name in self._names:
                self._depth, self._place = 1, "arguments"
            case ("name", _) if char.isascii() and (char.isalnum() or char in "_-."):
                self._name += char
            case ("between", ","):
                self._place = "name"
            case ("between", "]"):
                self._place = "end"
                return State.OPEN if self._end else State.DONE
            case ("end", _) if char == self._end[self._num_end]:
                self._num_end += 1
                return State.DONE if self._num_end == len(self._end) else State.OPEN
            case _:
                return State.FAILED
        return State.OPEN

    def _in_arguments(self, char: str, pieces: list[Piece]) -> State:
        self._arguments.append(char)
        if self._quote:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == self._quote:
                self._quote = ""
        elif char in "'\"":
            self._quote = char
        elif char in _OPEN:
            self._depth += 1
        elif char in _CLOSE:
            self._depth -= 1
            if self._depth == 0:
                return self._call_ended(pieces)
        return State.OPEN

    def _call_ended(self, pieces: list[Piece]) -> State:
        arguments = _arguments(f"f({''.join(self._arguments)}")
        if arguments is None:
            return State.FAILED
        pieces.append(Piece(self._name, [arguments]))
        self._name, self._arguments, self._raw = "", [], []
        self._place = "between"
        return State.OPEN


def _arguments(call: str) -> str | None:
    """The keyword arguments of a Python call as JSON; None if they are no plain values."""
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            return None
        values = {word.arg: _value(word.value) for word in node.keywords}
        return None if None in values else json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    """A literal; ValueError for anything else. Words of JSON count too."""
    match node:
        case ast.Constant(value=str() | bool() | int() | None as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.Name(id=name) if name in _JSON_WORDS:
            return _JSON_WORDS[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant()):
            value = _value(node.operand)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError("no number")
            return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = [(_value(key), _value(value)) for key, value in zip(keys, values, strict=True)
                     if key is not None]  # fmt: skip
            if len(pairs) < len(keys) or not all(isinstance(key, str) for key, _ in pairs):
                raise ValueError("no JSON object")
            return dict(pairs)
        case _:
            raise ValueError("no literal")
