"""Results of generations as pydantic models. Unknown fields are kept, so nothing a newer server
sends is lost.

`_results.py` has the other results; `_collect.py` builds results from streams.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field, PrivateAttr, TypeAdapter, ValidationError

from ._envelope import Part, Result
from ._errors import ParseFailed, parse_json

FormatT = TypeVar("FormatT")

Reasons = Literal["stop", "length", "tool_calls", "content_filter"]


class Usage(Part):
    """Token counts. `cached_tokens` are inside `prompt_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None

    @property
    def cached_tokens(self) -> int:
        return int((self.prompt_tokens_details or {}).get("cached_tokens") or 0)


class Logprobs(Part):
    """Four arrays with one entry per token; a first prompt token has None."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] = Field(default_factory=list)


class UsageCost(Part):
    """What an answer cost the server: an estimate, see the server's documentation."""

    cpu_seconds: float | None = None
    joules_est: float | None = None
    amount_est: float | None = None
    currency: str | None = None
    energy_source: str | None = None
    scope: str | None = None
    """Which parts of the server are counted."""


class Queue(Part):
    """Where a request stood when it arrived."""

    position_at_arrival: int | None = None


class TokenTrace(Part):
    """How one token of the answer came about."""

    index: int = 0
    """Of its choice."""
    token: str = ""
    id: int | None = None
    logprob: float | None = None
    rank: int | None = None
    entropy: float | None = None
    alternatives: list[dict[str, Any]] = Field(default_factory=list)
    steps: list[dict[str, Any]] = Field(default_factory=list)
    """What each step of the sampler left and removed."""
    removed_by: str | None = None
    """The step that removed the likeliest token."""
    uniform: float | None = None
    """The random number that was drawn."""
    lens: list[dict[str, Any]] = Field(default_factory=list)
    """The best token after each layer."""


class Ext(Part):
    """What `include` asked for; None = not asked."""

    seed: list[int] | None = None
    timings: dict[str, Any] | None = None
    usage_cost: UsageCost | None = None
    sampling: dict[str, Any] | None = None
    queue: Queue | None = None
    token_ids: list[list[int]] | None = None
    truncated: list[int] | None = None
    """Tokens that `truncate_prompt_tokens` dropped from each prompt."""
    trace: list[TokenTrace] | None = None
    """Of all choices together. In a stream the choices of the chunks have it."""


class Generation(Result):
    """What complete generations share."""

    id: str
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    choices: Sequence[Any]
    usage: Usage | None = None
    ext: Ext | None = None

    @property
    def text(self) -> str:
        """Text of the first choice."""
        text: str = self.choices[0].text if self.choices else ""
        return text

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended."""
        reason: str | None = self.choices[0].finish_reason if self.choices else None
        return reason

    @property
    def parsed(self) -> Any:
        """The first choice as the class given as `response_format`. Raises ParseFailed."""
        return self.all_parsed(limit=1)[0]

    def all_parsed(self, limit: int | None = None) -> list[Any]:
        """The same of every choice, or of the first `limit`."""
        try:
            return [choice.parsed for choice in self.choices[:limit]]
        except ParseFailed as error:
            error.request_id = self.request_id
            raise

    def with_format(self, response_format: TypeAdapter[Any] | None) -> None:
        for choice in self.choices:
            choice.with_format(response_format)

    def _ext(self) -> Mapping[str, Any] | None:
        return None if self.ext is None else {"timings": self.ext.timings}


class Progress(Part):
    """How far a request is that has no token yet."""

    stage: Literal["queued", "prefill"] | str
    position: int = 0
    """In the queue, 1 is the next; 0 once the prompt is being computed."""
    processed: int = 0
    total: int = 0
    """Tokens of the prompt, as are those processed."""
    eta_ms: int | None = None
    """Until the first token, estimated."""


class Chunk(Part):
    """What the events of a generation stream share."""

    id: str = ""
    created: int = 0
    model: str = ""
    choices: Sequence[Any]
    usage: Usage | None = None
    progress: Progress | None = None
    """With `stream_options={"include_progress": True}`, in chunks without choices."""
    ext: Ext | None = None

    def text_of(self, index: int) -> str:
        """New text of a choice, "" if the chunk has none for it."""
        return "".join(choice.text for choice in self.choices if choice.index == index)


class Choice(Part):
    """What the choices of generations and of chunks share."""

    index: int = 0
    finish_reason: Reasons | str | None = None
    stop_reason: str | int | None = None


class WholeChoice(Choice):
    """What the choices of complete generations share."""

    _format: TypeAdapter[Any] | None = PrivateAttr(None)

    def with_format(self, response_format: TypeAdapter[Any] | None) -> None:
        """Called once, by the client that received it."""
        self._format = response_format

    @property
    def parsed(self) -> Any:
        """The text as the class given as `response_format`. Raises ParseFailed."""
        if self._format is None:
            raise TypeError("the call gave no class as response_format")
        text: str = self.text  # type: ignore[attr-defined]  # both kinds of choices have it
        try:
            return self._format.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            why = f"{where}: {first['msg']}"
            if self.finish_reason == "length" and parse_json(text) is None:
                why = "it was cut at its length limit; give a higher max_tokens"
            raise ParseFailed(
                f"the answer does not fit the response_format: {why}",
                text=text,
                finish_reason=self.finish_reason,
            ) from error


class CompletionChoice(WholeChoice):
    text: str = ""
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(Generation):
    """The result of `completions.create`, or of its whole stream."""

    object: str = "text_completion"
    choices: list[CompletionChoice]


class ParsedCompletion(Completion, Generic[FormatT]):
    """The result of `completions.parse`, or of its whole stream."""

    @property
    def parsed(self) -> FormatT:
        """The first choice as the class given as `response_format`. Raises ParseFailed."""
        value: FormatT = super().parsed
        return value


class CompletionChunk(Chunk):
    """One event of a completion stream: new text of some choices."""

    object: str = "text_completion"
    choices: list[CompletionChoice]


class FunctionCall(Part):
    name: str = ""
    arguments: str = ""


class ToolCall(Part):
    index: int | None = None
    id: str = ""
    type: str = "function"
    function: FunctionCall = Field(default_factory=FunctionCall)

    def parse_arguments(self) -> dict[str, Any]:
        """The arguments by name. Raises ValueError if the model wrote no JSON object."""
        arguments = json.loads(self.function.arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments of {self.function.name!r} are not a JSON object")
        return arguments


class ToolCallDelta(Part):
    """A piece of a tool call: the first has id and name, later ones more of the arguments."""

    index: int = 0
    id: str | None = None
    type: str | None = None
    function: dict[str, Any] | None = None


class Message(Part):
    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Delta(Part):
    """What a chat chunk adds to a message."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class TopLogprob(Part):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChatLogprobs(Part):
    content: list[TokenLogprob] | None = None


class ChatChoice(WholeChoice):
    message: Message
    logprobs: ChatLogprobs | None = None

    @property
    def text(self) -> str:
        return self.message.content or ""


class ChatCompletion(Generation):
    """The result of `chat.create`, or of its whole stream."""

    object: str = "chat.completion"
    choices: list[ChatChoice]

    @property
    def message(self) -> Message:
        """The message of the first choice; it can be part of the next call's messages."""
        return self.choices[0].message

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tools that the first choice calls, in order."""
        return (self.choices[0].message.tool_calls if self.choices else None) or []


class ParsedChatCompletion(ChatCompletion, Generic[FormatT]):
    """The result of `chat.parse`, or of its whole stream."""

    @property
    def parsed(self) -> FormatT:
        """The first choice as the class given as `response_format`. Raises ParseFailed."""
        value: FormatT = super().parsed
        return value


class ChatChunkChoice(Choice):
    delta: Delta = Field(default_factory=Delta)
    logprobs: ChatLogprobs | None = None

    @property
    def text(self) -> str:
        return self.delta.content or ""


class ChatChunk(Chunk):
    """One event of a chat stream."""

    object: str = "chat.completion.chunk"
    choices: list[ChatChunkChoice]

    def reasoning_of(self, index: int) -> str:
        """New text of a choice's reasoning, where the server tells it from the answer."""
        found = (choice.delta.reasoning_content for choice in self.choices if choice.index == index)
        return "".join(text or "" for text in found)
