"""Results of calls as pydantic models. Unknown fields are kept, so nothing a newer server sends
is lost.

Every complete result also carries the HTTP response around it: `.request_id`, `.headers`,
`.timings`, `.ignored_params`. `_collect.py` builds results from streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

Reasons = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True)
class Timings:
    """Where the time went, as the server measured it; None = it did not say."""

    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Envelope:
    """The HTTP response around a result."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    request_id: str | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").lower().startswith("text/event-stream")

    @property
    def ignored_params(self) -> tuple[str, ...]:
        """Names of request fields the server did not know."""
        names = self.headers.get("x-ignored-params", "").split(",")
        return tuple(name.strip() for name in names if name.strip())

    def timings(self, ext: Mapping[str, Any] | None = None) -> Timings:
        """From the response headers; `ext.timings` of the body is more exact where present."""
        values: dict[str, Any] = {
            name: self.headers.get(f"x-{name.replace('_', '-')}")
            for name in ("queue_ms", "prefill_ms", "decode_ms")
        }
        in_body = (ext or {}).get("timings")
        values.update(in_body if isinstance(in_body, dict) else {})
        return Timings(**{field.name: _number(values.get(field.name)) for field in fields(Timings)})


class Received:
    """What results and streams tell about the HTTP response they came in."""

    _envelope: Envelope

    @property
    def request_id(self) -> str | None:
        """`X-Request-Id`: what the server's log calls this request."""
        return self._envelope.request_id

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers, names in lower case."""
        return self._envelope.headers

    @property
    def ignored_params(self) -> tuple[str, ...]:
        """Names of request fields the server did not know and ignored."""
        return self._envelope.ignored_params

    @property
    def timings(self) -> Timings:
        """Where the time went, as far as the server said."""
        return self._envelope.timings(self._ext())

    def _ext(self) -> Mapping[str, Any] | None:
        raise NotImplementedError


class Part(BaseModel):
    """A piece of a result. Fields that are not declared stay readable as attributes."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Result(Received, Part):
    """A complete result."""

    _envelope: Envelope = PrivateAttr(default_factory=Envelope)

    def with_envelope(self, envelope: Envelope) -> None:
        """Called once, by the client that received it."""
        self._envelope = envelope

    def _ext(self) -> Mapping[str, Any] | None:
        return (self.model_extra or {}).get("ext")


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

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] = []


class Generation(Result):
    """What complete generations share."""

    id: str
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    choices: Sequence[Any]
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """Text of the first choice."""
        text: str = self.choices[0].text if self.choices else ""
        return text


class Chunk(Part):
    """What the events of a generation stream share."""

    id: str = ""
    created: int = 0
    model: str = ""
    choices: Sequence[Any]
    usage: Usage | None = None

    def text_of(self, index: int) -> str:
        """New text of a choice, "" if the chunk has none for it."""
        return "".join(choice.text for choice in self.choices if choice.index == index)


class Choice(Part):
    """What the choices of generations and of chunks share."""

    index: int = 0
    finish_reason: Reasons | str | None = None
    stop_reason: str | int | None = None


class CompletionChoice(Choice):
    text: str = ""
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(Generation):
    """The result of `completions.create`, or of its whole stream."""

    object: str = "text_completion"
    choices: list[CompletionChoice]


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
    top_logprobs: list[TopLogprob] = []


class ChatLogprobs(Part):
    content: list[TokenLogprob] | None = None


class ChatChoice(Choice):
    message: Message
    logprobs: ChatLogprobs | None = None

    @property
    def text(self) -> str:
        return self.message.content or ""


class ChatCompletion(Generation):
    """The result of `chat.create`, or of its whole stream."""

    object: str = "chat.completion"
    choices: list[ChatChoice]


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


class Model(Result):
    """A model the server has. `ready` is False while it is being loaded."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = ""
    parent: str | None = None
    """Of an adapter: the model it changes."""
    max_model_len: int | None = None
    ready: bool | None = None
    capabilities: list[str] = []
    defaults: dict[str, Any] = {}


class ModelList(Result):
    """The models are in `.data`."""

    object: str = "list"
    data: list[Model]


class Tokens(Result):
    """The result of `tokenize`. `prompt` is the rendered text when messages were given."""

    count: int
    tokens: list[int]
    max_model_len: int | None = None
    token_strs: list[str] | None = None
    prompt: str | None = None


class Text(Result):
    """The result of `detokenize`."""

    prompt: str


class Health(Result):
    """Whether the server can serve, and what it says about its models."""

    status: str = ""
    models: dict[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return self._envelope.status == 200


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
