"""From the text that a model writes to the parts of a chat message.

A message has content, and may have reasoning and tool calls. Every dialect of chat (OpenAI,
Anthropic, Ollama, ...) renders the same parts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from shoal.text.delta import Delta


@dataclass(slots=True)
class ToolCallDelta:
    """New output of one tool call."""

    index: int
    """Which call of the message, from 0."""
    id: str | None = None
    """In the first delta of a call only, as is its name."""
    name: str | None = None
    arguments: str = ""
    """The next piece of its JSON arguments."""


@dataclass(slots=True)
class MessageDelta:
    """New parts of one message; the joined deltas are the whole."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    finish_reason: str | None = None
    """stop, length or tool_calls, with the last delta."""

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.reasoning or self.tool_calls)


class MessageParser(Protocol):
    """Finds the parts in the text of one message."""

    has_tool_calls: bool
    """Was there any so far?"""

    def push(self, text: str) -> MessageDelta:
        """The parts that are certain now; may hold text back."""
        ...

    def finish(self) -> MessageDelta:
        """What was held back, at the end of the message."""
        ...


MakeParser = Callable[[], MessageParser]


class PlainParser:
    """All text is content."""

    has_tool_calls = False

    def push(self, text: str) -> MessageDelta:
        return MessageDelta(content=text)

    def finish(self) -> MessageDelta:
        return MessageDelta()


class MessageReader:
    """The choices of one generation, each with a parser of its own."""

    def __init__(self, make_parser: MakeParser) -> None:
        self._make_parser = make_parser
        self._parsers: dict[int, MessageParser] = {}

    def read(self, delta: Delta) -> MessageDelta:
        """The parts of a choice's next delta."""
        parser = self._parsers.get(delta.index)
        if parser is None:
            parser = self._parsers[delta.index] = self._make_parser()
        parts = parser.push(delta.text)
        if delta.finish_reason is not None:
            rest = parser.finish()
            parts.content += rest.content
            parts.reasoning += rest.reasoning
            parts.tool_calls += rest.tool_calls
            parts.finish_reason = delta.finish_reason
            if parser.has_tool_calls and delta.finish_reason == "stop":
                parts.finish_reason = "tool_calls"
        return parts


def joined_tool_calls(deltas: list[ToolCallDelta]) -> list[ToolCallDelta]:
    """The whole calls of a message, in order."""
    calls: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        if (call := calls.get(delta.index)) is None:
            calls[delta.index] = ToolCallDelta(delta.index, delta.id, delta.name, delta.arguments)
        else:
            call.arguments += delta.arguments
    return [calls[index] for index in sorted(calls)]
