"""Every call as data: the path, the body and the type of the result. Does no I/O.

The calls that generate are here, `_routes.py` has the others. `RawCalls` binds these functions,
with their signatures, to a client's `with_raw_response`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._collect import ResultT
from ._params import (
    ChatParams,
    ChatParseParams,
    CompletionFields,
    CompletionParams,
    Extras,
    Messages,
    Prompt,
    check_names,
)
from ._settings import NOT_GIVEN, NotGiven, TimeoutLike
from ._structured import json_schema_format, reader_of
from ._tools import tool_json
from ._types import (
    ChatChunk,
    ChatCompletion,
    Chunk,
    Completion,
    CompletionChunk,
    ParsedChatCompletion,
    ParsedCompletion,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from typing_extensions import Unpack

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[ResultT]):
    """What a method of the client requests from the server."""

    method: str
    path: str
    result: type[ResultT]
    chunk: type[Chunk] | None = None  # of a stream's events; None if the endpoint never streams
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    extra_headers: Mapping[str, str | None] | None = field(default=None, repr=False)
    timeout: TimeoutLike | NotGiven = NOT_GIVEN
    stream: bool = False
    num_choices: int = 1  # that a stream must finish
    hide_usage: bool = False  # the caller did not ask for the chunk that has only usage
    reader: TypeAdapter[Any] | None = None  # of the class given as response_format
    raw: bool = False  # return the HTTP library's response instead of a result
    retried: bool = True
    accepted_statuses: tuple[int, ...] = ()  # error statuses that count as a result
    waits: bool = False  # repeat until the server is ready, for so many seconds
    ready_within_s: float | None = None


def completion(
    prompt: Prompt, *, stream: bool = False, **params: Unpack[CompletionParams]
) -> Call[Completion]:
    check_names("completions.create", params, CompletionParams)
    parts = _generation({"prompt": prompt}, params, stream)
    return Call("POST", "/v1/completions", Completion, CompletionChunk, **parts)


def parsed_completion(
    prompt: Prompt,
    response_format: type[T],
    *,
    stream: bool = False,
    **params: Unpack[CompletionFields],
) -> Call[ParsedCompletion[T]]:
    check_names("completions.parse", params, CompletionFields)
    call = completion(prompt, stream=stream, response_format=response_format, **params)
    return replace(_checked_class(call), result=ParsedCompletion)


def chat(
    messages: Messages, *, stream: bool = False, **params: Unpack[ChatParams]
) -> Call[ChatCompletion]:
    check_names("chat.create", params, ChatParams)
    parts = _generation({"messages": messages}, params, stream)
    return Call("POST", "/v1/chat/completions", ChatCompletion, ChatChunk, **parts)


def parsed_chat(
    messages: Messages,
    response_format: type[T],
    *,
    stream: bool = False,
    **params: Unpack[ChatParseParams],
) -> Call[ParsedChatCompletion[T]]:
    check_names("chat.parse", params, ChatParseParams)
    call = chat(messages, stream=stream, response_format=response_format, **params)
    return replace(_checked_class(call), result=ParsedChatCompletion)


def _checked_class(call: Call[Any]) -> Call[Any]:
    if call.reader is None:
        raise TypeError("parse() needs a class as response_format; create() takes a dict too")
    return call


def split(fields: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Body and extras of a call. None means "not given" and is not sent."""
    body = {**fields, **{k: v for k, v in params.items() if k not in Extras.__annotations__}}
    body = {name: value for name, value in body.items() if value is not None}
    if body.get("tools"):
        body["tools"] = [tool_json(item) for item in body["tools"]]
    body.update(params.get("extra_body") or {})
    return {
        "body": body or None,
        "extra_headers": params.get("extra_headers"),
        "timeout": params.get("timeout", NOT_GIVEN),
    }


def _generation(fields: dict[str, Any], params: Mapping[str, Any], stream: bool) -> dict[str, Any]:
    """The same for a call that generates."""
    parts = split(fields, params)
    body = parts["body"] = parts["body"] or {}
    parts |= {"stream": stream, "num_choices": _num_choices(body)}
    kind = params.get("response_format")
    parts["reader"] = reader = reader_of(kind)
    if reader is not None and body.get("response_format") is kind:  # else extra_body has its own
        body["response_format"] = json_schema_format(reader, kind)
    if stream:
        body["stream"] = True
        # Usage is part of a whole result, so every stream requests it.
        parts["hide_usage"] = "stream_options" not in body
        body.setdefault("stream_options", {"include_usage": True})
    return parts


def _num_choices(body: Mapping[str, Any]) -> int:
    prompt, n = body.get("prompt"), body.get("n")
    is_batch = isinstance(prompt, (list, tuple)) and not all(isinstance(t, int) for t in prompt)
    num_prompts = len(prompt) if is_batch else 1  # type: ignore[arg-type]  # a batch has a length
    return num_prompts * (n if isinstance(n, int) and n > 0 else 1)
