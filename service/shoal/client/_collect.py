"""Puts the chunks of a stream together to the result the plain call would have given.

Knows the shapes of chunks, not bytes or connections; `_stream.py` feeds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ._types import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionChunk,
    FunctionCall,
    Logprobs,
    Message,
    Result,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

ChunkT = TypeVar("ChunkT", bound="CompletionChunk | ChatChunk")
ResultT = TypeVar("ResultT", bound=Result)

_NOT_IN_A_RESULT = {"progress"}


class Collector(Generic[ChunkT, ResultT]):
    """Takes the chunks of one stream in order. Subclasses say what a choice is made of."""

    def __init__(self, num_choices: int) -> None:
        self.num_choices = num_choices
        self.usage: Usage | None = None
        self._head: dict[str, Any] = {}  # fields of the result besides choices and usage
        self._finished: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether every choice that was asked for has ended."""
        return len(self._finished) >= self.num_choices

    def add(self, chunk: ChunkT) -> None:
        if not self._head and chunk.id:
            self._head = {"id": chunk.id, "created": chunk.created, "model": chunk.model}
        extra = chunk.model_extra or {}
        self._head.update({k: v for k, v in extra.items() if k not in _NOT_IN_A_RESULT})
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
        self._add_choices(chunk)

    @property
    def ext(self) -> dict[str, Any] | None:
        """What the request's `include` asked for, once it has come."""
        return self._head.get("ext")

    @property
    def text(self) -> str:
        """Text of the first choice so far."""
        raise NotImplementedError

    def parse(self, event: object) -> ChunkT:
        """A chunk from the JSON of an event. Raises pydantic's ValidationError."""
        raise NotImplementedError

    def result(self) -> ResultT:
        """Everything so far as a whole result."""
        raise NotImplementedError

    def _add_choices(self, chunk: ChunkT) -> None:
        raise NotImplementedError

    def _fields(self, choices: list[Any]) -> dict[str, Any]:
        return {"id": "", **self._head, "choices": choices, "usage": self.usage}


@dataclass
class _TextParts:
    """One choice of a completion, in pieces."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    last: dict[str, Any] = field(default_factory=dict)
    """Latest value of every field that does not grow."""

    def add(self, piece: CompletionChoice) -> None:
        self.texts.append(piece.text)
        if piece.token_ids is not None:
            self.token_ids = self.token_ids or []
            self.token_ids += piece.token_ids
        if piece.logprobs is not None:
            self.logprobs = _joined(self.logprobs, piece.logprobs)
        steady = piece.model_dump(exclude={"index", "text", "token_ids", "logprobs"})
        self.last.update({k: v for k, v in steady.items() if v is not None})

    def choice(self, index: int) -> CompletionChoice:
        return CompletionChoice(
            **self.last,
            index=index,
            text="".join(self.texts),
            token_ids=self.token_ids,
            logprobs=self.logprobs,
        )


class CompletionCollector(Collector[CompletionChunk, Completion]):
    def __init__(self, num_choices: int) -> None:
        super().__init__(num_choices)
        self._parts: dict[int, _TextParts] = {}

    @property
    def text(self) -> str:
        return "".join(self._parts[0].texts) if 0 in self._parts else ""

    def parse(self, event: object) -> CompletionChunk:
        return CompletionChunk.model_validate(event)

    def result(self) -> Completion:
        choices = [self._parts[index].choice(index) for index in sorted(self._parts)]
        return Completion(**self._fields(choices))

    def _add_choices(self, chunk: CompletionChunk) -> None:
        for piece in chunk.choices:
            self._parts.setdefault(piece.index, _TextParts()).add(piece)


@dataclass
class _MessageParts:
    """One choice of a chat, in pieces."""

    contents: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)
    logprobs: list[TokenLogprob] | None = None
    message: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)

    def add(self, piece: ChatChunkChoice) -> None:
        delta = piece.delta
        self.contents.append(delta.content or "")
        self.reasonings.append(delta.reasoning_content or "")
        self.refusals.append(delta.refusal or "")
        for call in delta.tool_calls or ():
            _extend_call(self.tool_calls, call)
        if piece.logprobs is not None and piece.logprobs.content is not None:
            self.logprobs = self.logprobs or []
            self.logprobs += piece.logprobs.content
        if delta.role is not None:
            self.message["role"] = delta.role
        self.message.update(delta.model_extra or {})
        steady = piece.model_dump(exclude={"index", "delta", "logprobs"})
        self.last.update({k: v for k, v in steady.items() if v is not None})

    @property
    def content(self) -> str:
        return "".join(self.contents)

    def choice(self, index: int) -> ChatChoice:
        calls = [self.tool_calls[key] for key in sorted(self.tool_calls)]
        message = Message(
            **self.message,
            # A message that only calls tools has no content, in a plain answer too.
            content=(self.content or None) if calls else self.content,
            reasoning_content="".join(self.reasonings) or None,
            refusal="".join(self.refusals) or None,
            tool_calls=calls or None,
        )
        logprobs = None if self.logprobs is None else ChatLogprobs(content=self.logprobs)
        return ChatChoice(**self.last, index=index, message=message, logprobs=logprobs)


class ChatCollector(Collector[ChatChunk, ChatCompletion]):
    def __init__(self, num_choices: int) -> None:
        super().__init__(num_choices)
        self._parts: dict[int, _MessageParts] = {}

    @property
    def text(self) -> str:
        return self._parts[0].content if 0 in self._parts else ""

    def parse(self, event: object) -> ChatChunk:
        return ChatChunk.model_validate(event)

    def result(self) -> ChatCompletion:
        choices = [self._parts[index].choice(index) for index in sorted(self._parts)]
        return ChatCompletion(**self._fields(choices))

    def _add_choices(self, chunk: ChatChunk) -> None:
        for piece in chunk.choices:
            self._parts.setdefault(piece.index, _MessageParts()).add(piece)


def _joined(before: Logprobs | None, more: Logprobs) -> Logprobs:
    if before is None:
        return more.model_copy(deep=True)
    before.tokens += more.tokens
    before.token_logprobs += more.token_logprobs
    before.text_offset += more.text_offset
    if more.top_logprobs is not None:
        before.top_logprobs = before.top_logprobs or []
        before.top_logprobs += more.top_logprobs
    return before


def _extend_call(calls: dict[int, ToolCall], delta: ToolCallDelta) -> None:
    call = calls.setdefault(delta.index, ToolCall(function=FunctionCall()))
    call.id = delta.id or call.id
    call.type = delta.type or call.type
    function = delta.function or {}
    call.function.name += function.get("name") or ""
    call.function.arguments += function.get("arguments") or ""
