"""Reads calls written as JSON objects, one or a list: {"name": "f", "arguments": {...}}.

The arguments are given out as they come, as soon as the name before them is known.
"""

import json
from typing import Any

from shoal.text.tools.json_text import JsonValue, Read
from shoal.text.tools.scan import Piece, Scan, State

_SPACE = " \t\n\r"
_ARGUMENTS = ("arguments", "parameters")


class JsonCallScanner:
    """A CallScanner of one object or a list of them, and what must stand behind."""

    def __init__(
        self, names: frozenset[str], *, end: str = "", separator: str = "", is_bare: bool = False
    ) -> None:
        """`names`: of the tools; an object with another name is no call. `end`: the mark behind
        the calls. `separator`: of objects outside of a list. `is_bare`: no mark told that calls
        begin, so an object needs arguments to be one."""
        self._names = names
        self._end = end
        self._separator = separator
        self._is_bare = is_bare
        self._place = "begin"
        self._raw: list[str] = []
        """What was read of no call yet."""
        self._in_list = False
        self._num_end = 0
        """Characters of the end mark seen."""
        self._reset()

    def push(self, text: str) -> Scan:
        pieces: list[Piece] = []
        at = 0
        while at < len(text):
            if self._value is not None and (end := self._value.skip(text, at)) > at:
                self._take_plain(text[at:end], pieces)
                at = end
                continue
            state = self._take(text[at], pieces)
            if state is State.FAILED:
                return Scan(state, pieces, content="".join(self._raw[:-1]), unread=text[at:])
            at += 1
            if state is State.DONE:
                return Scan(state, pieces, unread=text[at:])
        return Scan(State.OPEN, pieces)

    def finish(self) -> str:
        return "" if self._place in ("between", "end") else "".join(self._raw)

    def _reset(self) -> None:
        """Before the next object."""
        self._key: str | None = None
        self._value: JsonValue | None = None
        self._value_text: list[str] = []
        self._name: str | None = None
        self._arguments: str | None = None
        self._is_committed = False

    def _take(self, char: str, pieces: list[Piece]) -> State:
        self._raw.append(char)
        if self._value is not None:
            state = self._in_value(char, pieces)
        elif char in _SPACE and self._num_end == 0:
            state = State.OPEN
        else:
            state = self._structure(char, pieces)
        if self._is_committed and state is State.OPEN:
            self._raw.clear()
        return state

    def _take_plain(self, text: str, pieces: list[Piece]) -> None:
        """Characters inside a string of a value."""
        self._value_text.append(text)
        if self._is_arguments and self._value_text[0] == "{":
            self._give(text, pieces)
        if not self._is_committed:
            self._raw.append(text)

    # --- around values -------------------------------------------------------------------------

    def _structure(self, char: str, pieces: list[Piece]) -> State:
        match self._place, char:
            case ("begin", "[") if not self._is_bare:
                self._in_list, self._place = True, "object"
            case ("begin" | "object", "{"):
                self._place = "first key"
            case ("first key" | "key", '"'):
                self._begin_value(char, "key")
            case ("colon", ":"):
                self._place = "value"
            case ("value", _):
                return self._begin_value(char, "value", pieces)
            case ("comma", ","):
                self._place = "key"
            case ("comma" | "first key", "}"):
                return self._object_ended(pieces)
            case ("comma", _) if self._end.startswith(char) and not self._in_list:
                self._object_ended(pieces)  # without its bracket, which weak models forget
                return self._end_mark(char)
            case ("between", ",") if self._in_list:
                self._place = "object"
            case ("between", "]") if self._in_list:
                self._in_list = False
                return self._after_object()
            case ("between", self._separator) if not self._in_list:
                self._place = "object"
            case ("end", _):
                return self._end_mark(char)
            case _:
                return State.FAILED
        return State.OPEN

    def _object_ended(self, pieces: list[Piece]) -> State:
        if not self._is_committed:
            if self._name is None or (self._is_bare and self._arguments is None):
                return State.FAILED
            pieces.append(Piece(self._name, [self._arguments or "{}"]))
        self._reset()
        self._place, self._raw = "between", []
        return self._after_object()

    def _after_object(self) -> State:
        if self._in_list or self._separator:
            return State.OPEN
        if not self._end:
            return State.DONE
        self._place = "end"
        return State.OPEN

    def _end_mark(self, char: str) -> State:
        if char != self._end[self._num_end]:
            return State.FAILED
        self._num_end += 1
        return State.DONE if self._num_end == len(self._end) else State.OPEN

    # --- values --------------------------------------------------------------------------------

    def _begin_value(self, char: str, place: str, pieces: list[Piece] | None = None) -> State:
        self._place = place
        self._value, self._value_text = JsonValue(), []
        return self._in_value(char, pieces if pieces is not None else [])

    def _in_value(self, char: str, pieces: list[Piece]) -> State:
        assert self._value is not None
        read = self._value.push(char)
        if read is Read.BAD:
            return State.FAILED
        if read is not Read.AFTER:
            self._value_text.append(char)
            if self._is_arguments and self._value_text[0] == "{":
                self._give(char, pieces)
        if read is Read.PART:
            return State.OPEN
        self._value = None
        if not self._value_read("".join(self._value_text), pieces):
            return State.FAILED
        return self._structure_after(char, pieces) if read is Read.AFTER else State.OPEN

    def _structure_after(self, char: str, pieces: list[Piece]) -> State:
        return State.OPEN if char in _SPACE else self._structure(char, pieces)

    @property
    def _is_arguments(self) -> bool:
        return self._place == "value" and self._key in _ARGUMENTS and self._arguments is None

    def _give(self, text: str, pieces: list[Piece]) -> None:
        """A part of an object of arguments: given out when the call's name is known."""
        if self._name is None:
            return
        if not self._is_committed:
            self._is_committed = True
            pieces.append(Piece(self._name))
        if not pieces:
            pieces.append(Piece(None))
        pieces[-1].parts.append(text)

    def _value_read(self, text: str, pieces: list[Piece]) -> bool:
        """A whole key or value. False: this is no call."""
        if self._place == "key":
            self._key, self._place = json.loads(text), "colon"
            return True
        is_arguments, self._place = self._is_arguments, "comma"
        if self._key == "name" and self._name is None:
            name = _value(text)
            if not (isinstance(name, str) and name in self._names):
                return False
            self._name = name
            if self._arguments is not None:  # they came first
                self._is_committed = True
                pieces.append(Piece(name, [self._arguments]))
        elif is_arguments:
            arguments = text if text[0] == "{" else _unwrapped(_value(text))
            if arguments is None:
                return False
            self._arguments = arguments
            if not self._is_committed and self._name is not None:
                self._is_committed = True
                pieces.append(Piece(self._name, [arguments]))
        return True


def _value(text: str) -> Any:
    """Of JSON; False for what is nested too deep to be read, which is no name and no arguments."""
    try:
        return json.loads(text)
    except RecursionError:
        return False


def _unwrapped(value: Any) -> str | None:
    """Arguments that are no object: null is none, and some models put the object in a string."""
    if value is None:
        return "{}"
    if isinstance(value, str):
        try:
            return value if isinstance(json.loads(value), dict) else None
        except (ValueError, RecursionError):
            return None
    return None
