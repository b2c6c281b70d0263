"""Arguments of the calls, declared once for both clients and for type checkers.

Meanings, ranges and defaults are the server's; an argument that is not given is not sent. Fields
that are not listed here can be sent with `extra_body`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from ._settings import Timeouts

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""One text, several texts, one list of token ids, or several."""

Messages = Sequence[Mapping[str, Any]]
"""A conversation: dicts with `role` and `content`."""

Prompts = Iterable[str | Sequence[int]]
"""Texts or lists of token ids, each for a request of its own."""

OnProgress = Callable[[int, int], None]
"""Called with (prompts done, prompts in total) after each, in the caller's thread or task."""


class Extras(TypedDict, total=False):
    """What every call takes."""

    extra_body: Mapping[str, Any] | None
    """Added to the request body last, unchanged."""
    extra_headers: Mapping[str, str | None] | None
    """Added last; None removes a header."""
    timeout: float | Timeouts | None
    """For this call alone; a number is the total in seconds."""


class StreamOptions(TypedDict, total=False):
    include_usage: bool
    continuous_usage_stats: bool


class GenerationParams(Extras, total=False):
    """Fields that completions and chat share."""

    model: str | None
    temperature: float | None
    top_p: float | None
    n: int | None
    stream_options: StreamOptions | None
    stop: str | Sequence[str] | None
    logit_bias: Mapping[str, float] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    user: str | None
    top_k: int | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    max_tokens: int | None
    max_completion_tokens: int | None
    min_tokens: int | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    include_stop_str_in_output: bool | None
    skip_special_tokens: bool | None
    priority: int | None
    max_time: float | None
    cache_salt: str | None
    cache_prompt: bool | None
    return_token_ids: bool | None
    return_tokens_as_token_ids: bool | None
    include: Sequence[Literal["seed", "timings", "sampling", "usage_cost", "trace"]] | None
    strict: bool | None


class CompletionParams(GenerationParams, total=False):
    """Arguments of `completions.create` besides prompt and stream."""

    best_of: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    echo: bool | None
    add_special_tokens: bool | None


class ManyParams(CompletionParams, total=False):
    """Arguments of `generate_many` besides prompts and keep_errors."""

    concurrency: int
    on_progress: OnProgress | None


class ChatParams(GenerationParams, total=False):
    """Arguments of `chat.create` besides messages and stream."""

    logprobs: bool | None
    top_logprobs: int | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    reasoning_effort: str | None
    chat_template_kwargs: Mapping[str, Any] | None


class TokenizeParams(Extras, total=False):
    """Arguments of `tokenize` besides prompt and messages."""

    model: str | None
    add_special_tokens: bool | None
    return_token_strs: bool | None
    add_generation_prompt: bool | None
    chat_template_kwargs: Mapping[str, Any] | None


def check_names(function: str, given: Mapping[str, Any], allowed: Any) -> None:
    """Raises TypeError for arguments that the TypedDict `allowed` does not have."""
    for name in given:
        if name not in allowed.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
