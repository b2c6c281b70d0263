"""What reads the text of calls: a scanner takes it character by character and says what is certain.

Only the text that belongs to no call yet is kept, so that a text that turns out to be none can be
given back as content.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol


class State(Enum):
    """Where a scanner is."""

    OPEN = auto()
    DONE = auto()
    """The calls ended with the last character it took."""
    FAILED = auto()
    """What follows is no call; `unread` is to be read again, as text."""


@dataclass(slots=True)
class Piece:
    """New output of the scanner: a call begins (it has a name), or goes on."""

    name: str | None
    parts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.parts)


@dataclass(slots=True)
class Scan:
    """What a scanner made of a text."""

    state: State
    pieces: list[Piece] = field(default_factory=list)
    content: str = ""
    """When it failed: what it had read of no call."""
    unread: str = ""
    """When it is no longer open: the text behind the calls."""


class CallScanner(Protocol):
    """Reads the calls behind a mark that begins them."""

    def push(self, text: str) -> Scan:
        """Takes the next text. Not called again once it is no longer open."""
        ...

    def finish(self) -> str:
        """At the end of the message: what was read of no call."""
        ...
