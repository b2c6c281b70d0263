"""A message as a row of blocks, for APIs whose streams open, fill and close one block at a time."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from shoal.text.message import MessageDelta

Kind = Literal["reasoning", "text", "tool_call"]


@dataclass(slots=True)
class Block:
    """One part of a message."""

    index: int
    kind: Kind
    text: str = ""
    """So far; of a tool call its JSON arguments."""
    id: str = ""
    """Of a tool call, as is its name."""
    name: str = ""


class Change(Enum):
    """What happened to a block."""

    OPENED = auto()
    GREW = auto()
    CLOSED = auto()


@dataclass(slots=True)
class Step:
    """One change; `piece` is the new text of a block that grew."""

    change: Change
    block: Block
    piece: str = ""


class Blocks:
    """The blocks of one message: at most the last one is open."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._is_open = False
        self._call_index = -1

    def push(self, parts: MessageDelta) -> list[Step]:
        """What a delta changes."""
        steps: list[Step] = []
        if parts.reasoning:
            self._grow(steps, "reasoning", parts.reasoning)
        if parts.content:
            self._grow(steps, "text", parts.content)
        for call in parts.tool_calls:
            if call.index != self._call_index:
                self._call_index = call.index
                self._open(steps, "tool_call", call.id or "", call.name or "")
            if call.arguments:
                self._grow(steps, "tool_call", call.arguments)
        return steps

    def finish(self) -> list[Step]:
        """Closes the open block. A message without any gets an empty text."""
        steps: list[Step] = []
        if not self.all:
            self._open(steps, "text")
        self._close(steps)
        return steps

    def _grow(self, steps: list[Step], kind: Kind, piece: str) -> None:
        if not self._is_open or self.all[-1].kind != kind:
            self._open(steps, kind)
        self.all[-1].text += piece
        steps.append(Step(Change.GREW, self.all[-1], piece))

    def _open(self, steps: list[Step], kind: Kind, id: str = "", name: str = "") -> None:
        self._close(steps)
        self.all.append(Block(len(self.all), kind, id=id, name=name))
        self._is_open = True
        steps.append(Step(Change.OPENED, self.all[-1]))

    def _close(self, steps: list[Step]) -> None:
        if self._is_open:
            self._is_open = False
            steps.append(Step(Change.CLOSED, self.all[-1]))
