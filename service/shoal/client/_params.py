"""Arguments of the calls, declared once for both clients and for type checkers.

Ranges and defaults are the server's; an argument that is not given is not sent. Fields that are
not listed here can be sent with `extra_body`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ._settings import TimeoutLike

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ._tools import Tool

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""One text, several texts, one list of token ids, or several."""

Messages = Sequence["Mapping[str, Any] | BaseModel"]
"""A conversation: dicts with `role` and `content`, or messages of earlier results."""

Tools = Sequence["Tool[..., Any] | Callable[..., Any] | Mapping[str, Any]"]
"""Functions, `tool(function)`, or tools as JSON."""

Prompts = Iterable[str | Sequence[int]]
"""Texts or lists of token ids, each for a request of its own."""

OnProgress = Callable[[int, int], None]
"""Called with (prompts done, prompts in total) after each, in the caller's thread or task."""

ResponseFormat = dict[str, Any]
"""`{"type": "json_schema", "json_schema": {"name": ..., "schema": ..., "strict": ...}}`"""

Include = Literal["seed", "timings", "usage_cost", "sampling", "token_ids", "trace", "queue"]


class Extras(TypedDict, total=False):
    """What every call takes."""

    extra_body: Mapping[str, Any] | None
    """Added to the request body last, unchanged."""
    extra_headers: Mapping[str, str | None] | None
    """Added last; None removes a header."""
    timeout: TimeoutLike
    """For this call alone; a number is the total in seconds, None no limit."""


class StreamOptions(TypedDict, total=False):
    """What a stream tells besides text."""

    include_usage: bool
    continuous_usage_stats: bool
    include_progress: bool


class StructuredOutputs(TypedDict, total=False):
    """What the text must be: one of these."""

    json: Mapping[str, Any] | str
    """A JSON schema."""
    regex: str
    choice: Sequence[str]
    grammar: str
    """A context-free grammar in Lark's notation."""


class GenerationParams(Extras, total=False):
    """Fields that completions and chat share."""

    model: str | None
    """Id of a model or adapter; without it the server's default model."""
    temperature: float | None
    """0 always takes the likeliest token."""
    top_p: float | None
    """Only the likeliest tokens whose probabilities add up to this."""
    n: int | None
    """Choices per prompt."""
    stream_options: StreamOptions | None
    """Without it a stream asks for usage and keeps it for `.usage`."""
    stop: str | Sequence[str] | None
    """Texts that end the answer; they are not part of it."""
    logit_bias: Mapping[str, float] | Mapping[int, float] | None
    """Added to the logits, by token id or by the text of one token."""
    presence_penalty: float | None
    """Against tokens that were generated before."""
    frequency_penalty: float | None
    """The same for each time they were."""
    seed: int | None
    """Same seed, same text."""
    user: str | None
    """Whose request it is, for servers that share by user."""
    top_k: int | None
    """Only so many of the likeliest tokens."""
    min_p: float | None
    """Only tokens with at least this share of the likeliest token's probability."""
    typical_p: float | None
    """Only tokens of typical information content, with this total probability."""
    repetition_penalty: float | None
    """Against tokens of prompt and answer; 1 is none."""
    no_repeat_ngram_size: int | None
    """No run of so many tokens comes twice."""
    dry_multiplier: float | None
    """Strength of DRY, which works against repeated runs; 0 is off."""
    dry_base: float | None
    """How DRY grows with the length of the run."""
    dry_allowed_length: int | None
    """Runs up to this long are free."""
    dry_sequence_breakers: Sequence[str] | None
    """Texts that no run goes across."""
    stop_on_loop: bool | Mapping[str, int] | None
    """Ends an answer that repeats itself; `{"min_repeats": ..., "max_period": ...}`."""
    max_tokens: int | None
    """Most tokens to write."""
    max_completion_tokens: int | None
    """The same, by its newer name."""
    min_tokens: int | None
    """Nothing ends the answer before so many."""
    stop_token_ids: Sequence[int] | None
    """Tokens that end the answer."""
    allowed_token_ids: Sequence[int] | None
    """Only these tokens."""
    ignore_eos: bool | None
    """Goes on after the model's end token."""
    include_stop_str_in_output: bool | None
    skip_special_tokens: bool | None
    truncate_prompt_tokens: int | None
    """Keeps only so many tokens of the prompt, the last; reported in `.ext.truncated`."""
    structured_outputs: StructuredOutputs | None
    """Another form that the text must have."""
    use_beam_search: bool | None
    length_penalty: float | None
    """Of beam search."""
    early_stopping: bool | None
    """Of beam search."""
    priority: int | None
    """Lower is served first."""
    max_time: float | None
    """Seconds after which the answer ends with what it has."""
    cache_salt: str | None
    """Shares cached prompts only with requests of the same salt."""
    cache_prompt: bool | None
    return_token_ids: bool | None
    return_tokens_as_token_ids: bool | None
    include: Sequence[Include] | None
    """What to add to the answer, in `.ext`."""
    strict: bool | None
    """The server refuses fields it does not know, instead of ignoring them with a warning."""


class CompletionFields(GenerationParams, total=False):
    """Arguments of `completions.parse` besides prompt, response_format and stream."""

    suffix: str | None
    """Text after the gap; for models that fill in the middle."""
    best_of: int | None
    """Generates so many and returns the likeliest `n`."""
    logprobs: int | None
    """Log-probabilities of the chosen tokens and so many alternatives."""
    prompt_logprobs: int | None
    """The same for the prompt."""
    echo: bool | None
    """The prompt is part of the text."""
    add_special_tokens: bool | None


class CompletionParams(CompletionFields, total=False):
    """Arguments of `completions.create` besides prompt and stream."""

    response_format: type[Any] | ResponseFormat | None
    """A class for the answer, see `parse`, or the API's object."""


class ManyParams(CompletionParams, total=False):
    """Arguments of `generate_many` besides prompts and keep_errors."""

    concurrency: int
    on_progress: OnProgress | None


class ChatFields(GenerationParams, total=False):
    """What all calls of a chat take."""

    tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any] | None
    """Whether it must call one, or which."""
    parallel_tool_calls: bool | None
    """Whether it may call several at once."""
    logprobs: bool | None
    """Log-probabilities of the chosen tokens."""
    top_logprobs: int | None
    """And so many alternatives."""
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    """The last message is the beginning of the answer."""
    reasoning_effort: str | None
    """For the chat template."""
    chat_template_kwargs: Mapping[str, Any] | None
    """For the chat template."""


class ChatParseParams(ChatFields, total=False):
    """Arguments of `chat.parse` besides messages, response_format and stream."""

    tools: Tools | None
    """What the model may call: functions, `tool(function)`, or JSON; see `run_tools`."""


class ChatToolParams(ChatFields, total=False):
    """Arguments of `chat.run_tools` besides messages, tools and max_rounds."""

    response_format: type[Any] | ResponseFormat | None
    """A class for the answer, see `parse`, or the API's object."""


class ChatParams(ChatParseParams, ChatToolParams, total=False):
    """Arguments of `chat.create` besides messages and stream."""


class TokenizeParams(Extras, total=False):
    """Arguments of `tokenize` besides prompt and messages."""

    model: str | None
    tools: Tools | None
    """As the chat template shows them."""
    tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    continue_final_message: bool | None
    reasoning_effort: str | None
    add_special_tokens: bool | None
    return_token_strs: bool | None
    add_generation_prompt: bool | None
    chat_template_kwargs: Mapping[str, Any] | None


def check_names(function: str, given: Mapping[str, Any], allowed: Any) -> None:
    """Raises TypeError for arguments that the TypedDict `allowed` does not have."""
    for name in given:
        if name not in allowed.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
