"""Every endpoint as data: which path, which body, which result. No I/O; one place for both
clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ._flow import Call
from ._params import (
    ChatParams,
    CompletionParams,
    Extras,
    Prompt,
    TokenizeParams,
    check_names,
)
from ._types import ChatCompletion, Completion, Health, Model, ModelList, Text, Tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack


def completion(
    prompt: Prompt,
    *,
    model: str | None = None,
    stream: bool = False,
    **params: Unpack[CompletionParams],
) -> Call[Completion]:
    check_names("completions.create", params, CompletionParams)
    fields: dict[str, Any] = {"model": model, "prompt": prompt}
    return _generation("/v1/completions", Completion, fields, stream, params)


def chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    model: str | None = None,
    stream: bool = False,
    **params: Unpack[ChatParams],
) -> Call[ChatCompletion]:
    check_names("chat.create", params, ChatParams)
    fields: dict[str, Any] = {"model": model, "messages": messages}
    return _generation("/v1/chat/completions", ChatCompletion, fields, stream, params)


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
    messages: Sequence[Mapping[str, Any]] | None = None,
    model: str | None = None,
    **params: Unpack[TokenizeParams],
) -> Call[Tokens]:
    check_names("tokenize", params, TokenizeParams)
    if (prompt is None) == (messages is None):
        raise TypeError("tokenize() takes a prompt or messages, one of them")
    fields = {"model": model, "prompt": prompt, "messages": messages}
    return Call("POST", "/tokenize", Tokens, **_split(fields, params))


def detokenize(
    tokens: Sequence[int], *, model: str | None = None, **extras: Unpack[Extras]
) -> Call[Text]:
    check_names("detokenize", extras, Extras)
    return Call("POST", "/detokenize", Text, **_split({"model": model, "tokens": tokens}, extras))


def health(**extras: Unpack[Extras]) -> Call[Health]:
    check_names("health", extras, Extras)
    # "Not now" is an answer here, so it is neither retried nor an error.
    return Call("GET", "/health", Health, retried=False, also_fine=(503,), **_split({}, extras))


def ready(**extras: Unpack[Extras]) -> Call[Health]:
    check_names("wait_until_ready", extras, Extras)
    return Call("GET", "/readyz", Health, **_split({}, extras))


def _generation(
    path: str, result: Any, fields: dict[str, Any], stream: bool, params: Mapping[str, Any]
) -> Call[Any]:
    parts = _split(fields, params)
    body: dict[str, Any] = parts["body"]
    hide_usage = False
    if stream:
        body["stream"] = True
        # Usage is part of a whole result, so a stream has it too.
        hide_usage = "stream_options" not in body
        body.setdefault("stream_options", {"include_usage": True})
    return Call(
        "POST",
        path,
        result,
        stream=stream,
        generates=True,
        num_choices=_num_choices(body),
        hide_usage=hide_usage,
        **parts,
    )


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


def _num_choices(body: Mapping[str, Any]) -> int:
    prompt, n = body.get("prompt"), body.get("n")
    is_batch = isinstance(prompt, (list, tuple)) and not all(isinstance(t, int) for t in prompt)
    num_prompts = len(prompt) if is_batch else 1  # type: ignore[arg-type]  # a batch has a length
    return num_prompts * (n if isinstance(n, int) and n > 0 else 1)
