"""The calls that do not generate, as data; see `_calls.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from ._calls import Call, split
from ._params import Extras, Messages, Prompt, TokenizeParams, check_names
from ._results import (
    Cancelled,
    ChoiceScores,
    Done,
    EmbeddingList,
    Health,
    Load,
    MetricsPage,
    Model,
    ModelList,
    Perplexity,
    Text,
    Tokens,
    Unloaded,
    UsageReport,
    Version,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Normalize = Literal["none", "tokens", "bytes"]


def list_models(**extras: Unpack[Extras]) -> Call[ModelList]:
    check_names("models.list", extras, Extras)
    return Call("GET", "/v1/models", ModelList, **split({}, extras))


def retrieve_model(model: str, **extras: Unpack[Extras]) -> Call[Model]:
    check_names("models.retrieve", extras, Extras)
    path = f"/v1/models/{quote(_named(model, 'model'), safe='/')}"
    return Call("GET", path, Model, **split({}, extras))


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
    return Call("POST", "/tokenize", Tokens, **split(fields, params))


def detokenize(
    tokens: Sequence[int], *, model: str | None = None, **extras: Unpack[Extras]
) -> Call[Text]:
    check_names("detokenize", extras, Extras)
    return Call("POST", "/detokenize", Text, **split({"model": model, "tokens": tokens}, extras))


def score_choices(
    prompt: str | Sequence[int],
    choices: Sequence[str] | Sequence[Sequence[int]],
    *,
    model: str | None = None,
    normalize: Normalize | None = None,
    **extras: Unpack[Extras],
) -> Call[ChoiceScores]:
    check_names("score_choices", extras, Extras)
    fields = {"model": model, "prompt": prompt, "choices": choices, "normalize": normalize}
    return Call("POST", "/v1/score_choices", ChoiceScores, **split(fields, extras))


def perplexity(
    input: Prompt,
    *,
    model: str | None = None,
    stride: int | None = None,
    **extras: Unpack[Extras],
) -> Call[Perplexity]:
    check_names("perplexity", extras, Extras)
    fields = {"model": model, "input": input, "stride": stride}
    return Call("POST", "/v1/perplexity", Perplexity, **split(fields, extras))


def embeddings(
    input: Prompt,
    *,
    model: str | None = None,
    dimensions: int | None = None,
    encoding_format: Literal["float", "base64"] = "base64",
    **extras: Unpack[Extras],
) -> Call[EmbeddingList]:
    check_names("embeddings.create", extras, Extras)
    fields = {
        "model": model,
        "input": input,
        "dimensions": dimensions,
        "encoding_format": encoding_format,
    }
    return Call("POST", "/v1/embeddings", EmbeddingList, **split(fields, extras))


def cancel(request_id: str, **extras: Unpack[Extras]) -> Call[Cancelled]:
    check_names("cancel", extras, Extras)
    path = f"/v1/requests/{quote(_named(request_id, 'request_id'), safe='')}/cancel"
    return Call("POST", path, Cancelled, **_with_body(split({}, extras)))


def usage(**extras: Unpack[Extras]) -> Call[UsageReport]:
    check_names("usage", extras, Extras)
    return Call("GET", "/v1/usage", UsageReport, **split({}, extras))


def version(**extras: Unpack[Extras]) -> Call[Version]:
    check_names("version", extras, Extras)
    return Call("GET", "/version", Version, **split({}, extras))


def load(**extras: Unpack[Extras]) -> Call[Load]:
    check_names("load", extras, Extras)
    return Call("GET", "/load", Load, **split({}, extras))


def metrics(**extras: Unpack[Extras]) -> Call[MetricsPage]:
    check_names("metrics", extras, Extras)
    return Call("GET", "/metrics", MetricsPage, **split({}, extras))


def health(**extras: Unpack[Extras]) -> Call[Health]:
    check_names("health", extras, Extras)
    # "Not ready" is a result here: neither retried nor an error.
    return Call(
        "GET", "/health", Health, retried=False, accepted_statuses=(503,), **split({}, extras)
    )


def ready(timeout_s: float | None, **extras: Unpack[Extras]) -> Call[Health]:
    check_names("wait_until_ready", extras, Extras)
    return Call("GET", "/readyz", Health, waits=True, ready_within_s=timeout_s, **split({}, extras))


def load_adapter(
    name: str, path: str, *, model: str | None = None, **extras: Unpack[Extras]
) -> Call[Model]:
    check_names("admin.lora.load", extras, Extras)
    return _admin("lora/load", Model, {"name": name, "path": path, "model": model}, extras)


def unload_adapter(name: str, **extras: Unpack[Extras]) -> Call[Unloaded]:
    check_names("admin.lora.unload", extras, Extras)
    return _admin("lora/unload", Unloaded, {"name": name}, extras)


def load_model(name: str, path: str, **extras: Unpack[Extras]) -> Call[Model]:
    check_names("admin.models.load", extras, Extras)
    return _admin("models/load", Model, {"name": name, "path": path}, extras)


def unload_model(
    name: str, *, drain: bool | None = None, **extras: Unpack[Extras]
) -> Call[Unloaded]:
    check_names("admin.models.unload", extras, Extras)
    return _admin("models/unload", Unloaded, {"name": name, "drain": drain}, extras)


def reset_cache(*, model: str | None = None, **extras: Unpack[Extras]) -> Call[Done]:
    check_names("admin.cache.reset", extras, Extras)
    return _admin("cache/reset", Done, {"model": model}, extras)


def drain(drain: bool = True, **extras: Unpack[Extras]) -> Call[Done]:
    check_names("admin.drain", extras, Extras)
    return _admin("drain", Done, {"drain": drain}, extras)


def _admin(path: str, result: Any, fields: dict[str, Any], extras: Extras) -> Call[Any]:
    # Not retried: a load that was carried out and lost its answer would be "already loaded".
    parts = _with_body(split(fields, extras))
    return Call("POST", f"/admin/{path}", result, retried=False, **parts)


def _with_body(parts: dict[str, Any]) -> dict[str, Any]:
    """An empty object where a POST has nothing to say: the server asks for JSON."""
    return {**parts, "body": parts["body"] or {}}


def _named(value: str, what: str) -> str:
    if not value:
        raise ValueError(f"{what} must not be empty")
    return value
