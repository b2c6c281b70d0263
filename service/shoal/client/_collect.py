"""Merges the chunks of a stream into the result that the plain call would have returned."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ._envelope import Result
from ._types import Chunk, Usage

ChunkT = TypeVar("ChunkT", bound=Chunk)
ResultT = TypeVar("ResultT", bound=Result)

# Fields that arrive in pieces, texts and lists; of every other field the latest value counts.
_JOINED = {
    "text", "content", "reasoning_content", "refusal",
    "token_ids", "tokens", "token_logprobs", "top_logprobs", "text_offset", "trace",
}  # fmt: skip
_JOINED_IN_FUNCTION = {"name", "arguments"}
_NOT_IN_A_RESULT = {"progress"}


class Collector(Generic[ChunkT, ResultT]):
    """Takes the chunks of one stream in order."""

    def __init__(
        self, chunk_type: type[ChunkT], result_type: type[ResultT], num_choices: int
    ) -> None:
        self.num_choices = num_choices
        self.usage: Usage | None = None
        self._chunk_type = chunk_type
        self._result_type = result_type
        self.head: dict[str, Any] = {}  # fields of the result besides choices and usage
        self._choices: dict[int, dict[str, Any]] = {}

    @property
    def finished(self) -> bool:
        """Whether every choice has a finish reason."""
        num_finished = sum("finish_reason" in choice for choice in self._choices.values())
        return num_finished >= self.num_choices

    @property
    def text(self) -> str:
        """Text of the first choice so far."""
        choice = self._choices.get(0, {})
        text: str = choice.get("text") or choice.get("message", {}).get("content") or ""
        return text

    def add(self, event: object) -> ChunkT:
        """The chunk in the JSON of an event, after taking it in. Raises ValidationError."""
        chunk = self._chunk_type.model_validate(event)
        if not self.head and chunk.id:
            self.head = {"id": chunk.id, "created": chunk.created, "model": chunk.model}
        extra = chunk.model_extra or {}
        self.head.update({k: v for k, v in extra.items() if k not in _NOT_IN_A_RESULT})
        self.usage = chunk.usage or self.usage
        if chunk.ext is not None:
            self.head["ext"] = {**self.head.get("ext", {}), **chunk.ext.to_dict()}
        for choice in chunk.choices:
            piece = choice.model_dump(exclude_none=True, exclude={"index"})
            if "delta" in piece:
                piece["message"] = piece.pop("delta")
            _merge(self._choices.setdefault(choice.index, {}), piece)
        return chunk

    def result(self) -> ResultT:
        """Everything so far as a complete result. May be called again."""
        choices, traces = [], []
        for index, choice in sorted(self._choices.items()):
            entries = choice.get("trace", [])
            traces += [{"index": index, **entry} for entry in entries]
            finished = {**choice, "index": index, **_finished_message(choice)}
            finished.pop("trace", None)
            choices.append(finished)
        whole = {"id": "", **self.head, "choices": choices, "usage": self.usage}
        if traces:  # a whole answer has those of all choices together
            whole["ext"] = {**self.head.get("ext", {}), "trace": traces}
        return self._result_type.model_validate(whole)


def _merge(whole: dict[str, Any], piece: dict[str, Any], joined: set[str] = _JOINED) -> None:
    for name, new in piece.items():
        old: Any = whole.get(name)
        if new is None:
            continue
        if name == "tool_calls":  # kept by index until the result
            calls = whole.setdefault(name, {})
            for call in new:
                _merge(calls.setdefault(call.pop("index"), {}), call)
        elif type(old) is not type(new):
            whole[name] = new
        elif isinstance(new, dict):
            _merge(old, new, _JOINED_IN_FUNCTION if name == "function" else joined)
        elif name in joined:
            whole[name] += new
        else:
            whole[name] = new


def _finished_message(choice: dict[str, Any]) -> dict[str, Any]:
    """The message of a chat choice with its tool calls in order; nothing for a completion."""
    if "message" not in choice:
        return {}
    message: dict[str, Any] = choice["message"]
    calls = [call for _, call in sorted(message.get("tool_calls", {}).items())]
    content = message.get("content", "")
    return {
        "message": {
            **message,
            # A message that only calls tools has no content, in a plain answer too.
            "content": (content or None) if calls else content,
            "reasoning_content": message.get("reasoning_content") or None,
            "refusal": message.get("refusal") or None,
            "tool_calls": calls or None,
        }
    }
