"""JSON bodies and events as a server sends them, one function for each."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """One event of a stream as it is sent."""
    return b"data: " + dump(event) + b"\n\n"


def completion_json(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a whole completion."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    return {**_head("text_completion"), **usage_of((text,)), "choices": [choice], **fields}


def chat_json(
    text: str | None,
    *,
    message: Mapping[str, Any] | None = None,
    finish_reason: str = "stop",
    **fields: Any,
) -> dict[str, Any]:
    """The body of a whole chat answer; `message` adds fields to its message."""
    whole = {"role": "assistant", "content": text, "refusal": None, **(message or {})}
    choice = {"index": 0, "message": whole, "logprobs": None, "finish_reason": finish_reason}
    return {**_head("chat.completion"), **usage_of((text or "",)), "choices": [choice], **fields}


def tool_calls_json(arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The part of a message that calls these tools."""
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": text}}
        for number, (name, text) in enumerate(_as_text(arguments).items())
    ]
    return {"tool_calls": calls}


def tool_call_deltas(arguments: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same in the pieces of a stream: name first, then the arguments in two halves."""
    yield {"role": "assistant", "content": None}
    for number, (name, text) in enumerate(_as_text(arguments).items()):
        function = {"name": name, "arguments": ""}
        first = {"index": number, "id": f"call_{number}", "type": "function", "function": function}
        yield {"tool_calls": [first]}
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def _as_text(arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: dump(values).decode() for name, values in arguments.items()}


def models_json(names: Sequence[str], **fields: Any) -> dict[str, Any]:
    """The list of models."""
    return {"object": "list", "data": [model_json(name, **fields) for name in names]}


def model_json(name: str, **fields: Any) -> dict[str, Any]:
    """One model, ready to use."""
    shown = {"id": name, "object": "model", "created": 1760000000, "owned_by": "local"}
    return {**shown, "max_model_len": 2048, "ready": True, **fields}


def scores_json(logprobs: Sequence[float]) -> dict[str, Any]:
    """The answer of score_choices; ranks from 1."""
    order = sorted(range(len(logprobs)), key=lambda index: -logprobs[index])
    choices = [
        {"index": index, "logprob": logprob, "tokens": 1, "rank": order.index(index) + 1}
        for index, logprob in enumerate(logprobs)
    ]
    best = order[0] if order else None
    return {
        "object": "list",
        "model": "test",
        "choices": [{**choice, "is_greedy": choice["index"] == best} for choice in choices],
    }


def perplexity_json(perplexity: float, tokens: int, num_bytes: int) -> dict[str, Any]:
    """The answer of perplexity, with its other numbers computed from it."""
    nll = math.log(perplexity) * tokens
    bits_per_byte = nll / math.log(2) / num_bytes
    numbers = {"nll": nll, "tokens": tokens, "perplexity": perplexity}
    figures = {**numbers, "bits_per_byte": bits_per_byte}
    return {"object": "list", "model": "test", **figures, "data": [{"index": 0, **figures}]}


def embeddings_json(vectors: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The answer of embeddings, each vector in base64 of little-endian float32 numbers."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode(),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": len(vectors), "total_tokens": len(vectors)}
    return {"object": "list", "model": "test", "data": data, "usage": usage}


def completion_event(
    text: str, *, index: int = 0, finish_reason: str | None = None, **fields: Any
) -> dict[str, Any]:
    """A chunk of a completion stream; `fields` go into its choice."""
    choice = {"index": index, "text": text, "finish_reason": finish_reason, **fields}
    return {**_head("text_completion"), "choices": [choice]}


def chat_event(
    delta: Mapping[str, Any], *, index: int = 0, finish_reason: str | None = None, **fields: Any
) -> dict[str, Any]:
    """A chunk of a chat stream; `fields` go into its choice."""
    choice = {"index": index, "delta": dict(delta), "finish_reason": finish_reason, **fields}
    return {**_head("chat.completion.chunk"), "choices": [choice]}


def _head(kind: str) -> dict[str, Any]:
    return {"id": "cmpl-test", "object": kind, "created": 1760000000, "model": "test"}


def usage_of(texts: Sequence[str]) -> dict[str, Any]:
    """What the last chunk of a stream has instead of choices."""
    counts = {"prompt_tokens": 3, "completion_tokens": len(texts), "total_tokens": 3 + len(texts)}
    return {"choices": [], "usage": counts}


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
