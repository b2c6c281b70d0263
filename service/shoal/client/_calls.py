"""Every endpoint as data: the path, the body and the type of the result. Does no I/O.

`RawCalls` binds these functions, with their signatures, to a client's `with_raw_response`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from urllib.parse import quote

from ._collect import ResultT
from ._params import (
    ChatParams,
    CompletionParams,
    Extras,
    Messages,
    Prompt,
    TokenizeParams,
    check_names,
)
from ._types import (
    ChatChunk,
    ChatCompletion,
    Chunk,
    Completion,
    CompletionChunk,
    Health,
    Model,
    ModelList,
    Text,
    Tokens,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._settings import Timeouts

P = ParamSpec("P")
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True)
class Call(Generic[ResultT]):
    """What a method of the client requests from the server."""

    method: str
    path: str
    result: type[ResultT]
    chunk: type[Chunk] | None = None  # of a stream's events; None if the endpoint never streams
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    extra_headers: Mapping[str, str | None] | None = field(default=None, repr=False)
    timeout: float | Timeouts | None = None
    stream: bool = False
    num_choices: int = 1  # that a stream must finish
    hide_usage: bool = False  # the caller did not ask for the chunk that has only usage
    raw: bool = False  # return the HTTP library's response instead of a result
    retried: bool = True
    accepted_statuses: tuple[int, ...] = ()  # error statuses that count as a result
    ready_within_s: float | None = None  # repeat until the server is ready, for so many seconds


def completion(
    prompt: Prompt, *, stream: bool = False, **params: Unpack[CompletionParams]
) -> Call[Completion]:
    check_names("completions.create", params, CompletionParams)
    parts = _generation({"prompt": prompt}, params, stream)
    return Call("POST", "/v1/completions", Completion, CompletionChunk, **parts)


def chat(
    messages: Messages, *, stream: bool = False, **params: Unpack[ChatParams]
) -> Call[ChatCompletion]:
    check_names("chat.create", params, ChatParams)
    parts = _generation({"messages": messages}, params, stream)
    return Call("POST", "/v1/chat/completions", ChatCompletion, ChatChunk, **parts)


def list_models(**extras: Unpack[Extras]) -> Call[ModelList]:
    check_names("models.list", extras, Extras)
    return Call("GET", "/v1/models", ModelList, **_split({}, extras))


def retrieve_model(model: str, **extras: Unpack[Extras]) -> Call[Model]:
    check_names("models.retrieve", extras, Extras)
    if not model:
        raise ValueError("model must not be empty")
    return Call("GET", f"/v1/models/{quote(model, safe='/')}", Model, **_split({}, extras))


def tokenize(
    prompt: str | None = None,
    *,
    messages: Messages | None = None,
    **params: Unpack[TokenizeParams],
) -> Call[Tokens]:
    check_names("tokenize", params, TokenizeParams)
    if (prompt is None) == (messages is None):
        raise TypeError("tokenize() takes a prompt or messages, one of them")
    fields = {"prompt": prompt, "messages": messages}
    return Call("POST", "/tokenize", Tokens, **_split(fields, params))


def detokenize(
    tokens: Sequence[int], *, model: str | None = None, **extras: Unpack[Extras]
) -> Call[Text]:
    check_names("detokenize", extras, Extras)
    return Call("POST", "/detokenize", Text, **_split({"model": model, "tokens": tokens}, extras))


def health(**extras: Unpack[Extras]) -> Call[Health]:
    check_names("health", extras, Extras)
    # "Not ready" is a result here: neither retried nor an error.
    return Call(
        "GET", "/health", Health, retried=False, accepted_statuses=(503,), **_split({}, extras)
    )


def ready(timeout_s: float, **extras: Unpack[Extras]) -> Call[Health]:
    check_names("wait_until_ready", extras, Extras)
    return Call("GET", "/readyz", Health, ready_within_s=timeout_s, **_split({}, extras))


class RawCalls(Generic[ResponseT]):
    """The same calls, returning the HTTP library's response.

    Error statuses still raise, and retries still happen.
    With `stream=True` the body has not been read, and closing the response is up to you.
    """

    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.completions = RawCreate(run, completion)
        self.chat = RawCreate(run, chat)
        self.models = RawModels(run)
        self.tokenize = _bound(run, tokenize)
        self.detokenize = _bound(run, detokenize)
        self.health = _bound(run, health)


class RawCreate(Generic[P, ResponseT]):
    def __init__(
        self, run: Callable[[Call[Any]], ResponseT], build: Callable[P, Call[Any]]
    ) -> None:
        self.create = _bound(run, build)


class RawModels(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.list = _bound(run, list_models)
        self.retrieve = _bound(run, retrieve_model)


def _bound(
    run: Callable[[Call[Any]], ResponseT], build: Callable[P, Call[Any]]
) -> Callable[P, ResponseT]:
    def call(*args: P.args, **kwargs: P.kwargs) -> ResponseT:
        return run(build(*args, **kwargs))

    return call


def _split(fields: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Body and extras of a call. None means "not given" and is not sent."""
    body = {**fields, **{k: v for k, v in params.items() if k not in Extras.__annotations__}}
    body = {name: value for name, value in body.items() if value is not None}
    body.update(params.get("extra_body") or {})
    return {
        "body": body or None,
        "extra_headers": params.get("extra_headers"),
        "timeout": params.get("timeout"),
    }


def _generation(fields: dict[str, Any], params: Mapping[str, Any], stream: bool) -> dict[str, Any]:
    """The same for a call that generates."""
    parts = _split(fields, params)
    body = parts["body"] = parts["body"] or {}
    parts |= {"stream": stream, "num_choices": _num_choices(body)}
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
