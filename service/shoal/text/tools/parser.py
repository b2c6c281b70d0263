"""Finds tool calls in the text of a message, as it comes.

Held back is only what may be the beginning of a call: a mark or a part of one, with the space
before it. Once a call has its name and its arguments have begun, they are given out as they come.
Text that begins like a call and is none stays content, word for word.
"""

import secrets
from collections.abc import Callable

from shoal.text.message import MessageDelta, ToolCallDelta
from shoal.text.tools.scan import CallScanner, Piece, State


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """A MessageParser for one format of calls."""

    def __init__(
        self,
        begins: tuple[str, ...],
        bare_begin: str,
        make_scanner: Callable[[], CallScanner],
        *,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        """`begins`: marks that begin calls, anywhere in a message. `bare_begin`: a character that
        begins them at the start of a message, or ""."""
        self.has_tool_calls = False
        self._begins = begins
        self._bare_begin = bare_begin
        self._make_scanner = make_scanner
        self._new_id = new_id
        self._held = ""
        self._scanner: CallScanner | None = None
        self._before = ""
        """What was read of a call before its scanner: space and the mark."""
        self._num_calls = 0
        self._is_start = True
        """No content and no call so far."""

    def push(self, text: str) -> MessageDelta:
        delta = MessageDelta()
        self._held += text
        while self._step(delta):
            pass
        return delta

    def finish(self) -> MessageDelta:
        delta = MessageDelta()
        if self._scanner is not None:
            delta.content = self._before + self._scanner.finish()
        elif self._held.strip() or not self.has_tool_calls:
            delta.content = self._held
        self._scanner, self._held, self._before = None, "", ""
        return delta

    def _step(self, delta: MessageDelta) -> bool:
        """One step through the held text; False when no further is possible."""
        return self._scan(delta) if self._scanner is not None else self._search(delta)

    def _search(self, delta: MessageDelta) -> bool:
        """Looks for what begins calls."""
        held = self._held
        found = min(((at, mark) for mark in self._begins if (at := held.find(mark)) >= 0),
                    default=None)  # fmt: skip
        stripped = held.lstrip()
        if self._is_start and self._bare_begin and stripped.startswith(self._bare_begin):
            start = end = len(held) - len(stripped)
        elif found is not None:
            start, end = found[0], found[0] + len(found[1])
        else:
            self._give(delta, len(held) - self._num_possible())
            return False
        self._give(delta, len(held[:start].rstrip()))
        gone = len(held) - len(self._held)
        self._before, self._held = self._held[: end - gone], self._held[end - gone :]
        self._scanner = self._make_scanner()
        return True

    def _scan(self, delta: MessageDelta) -> bool:
        """Gives the held text to the scanner."""
        assert self._scanner is not None
        text, self._held = self._held, ""
        scan = self._scanner.push(text)
        for piece in scan.pieces:
            self._before = ""
            delta.tool_calls.append(self._call_delta(piece))
        if scan.state is State.OPEN:
            return False
        self._held, self._scanner = scan.unread, None
        if scan.state is State.FAILED:
            self._is_start = False
            delta.content += self._before + scan.content
        self._before = ""
        return bool(self._held)

    def _call_delta(self, piece: Piece) -> ToolCallDelta:
        if piece.name is None:
            return ToolCallDelta(self._num_calls - 1, arguments=piece.arguments)
        self.has_tool_calls, self._is_start = True, False
        self._num_calls += 1
        return ToolCallDelta(self._num_calls - 1, self._new_id(), piece.name, piece.arguments)

    def _give(self, delta: MessageDelta, end: int) -> None:
        """The first characters of the held text are content."""
        if end > 0:
            delta.content += self._held[:end]
            self._held = self._held[end:]
            self._is_start = False

    def _num_possible(self) -> int:
        """How much of the held text's end may belong to calls that follow."""
        held = self._held
        is_open = bool(self._begins) or (self._is_start and bool(self._bare_begin))
        if not is_open:
            return 0
        part = max((num for mark in self._begins for num in range(1, min(len(mark), len(held) + 1))
                    if held.endswith(mark[:num])), default=0)  # fmt: skip
        before = held[: len(held) - part]
        return part + len(before) - len(before.rstrip())
