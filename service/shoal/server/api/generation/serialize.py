"""JSON parts shared by completions and chat: usage, ext, logprobs."""

import math
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shoal.protocol.messages import Progress, TokenLogprobs
from shoal.server import sse
from shoal.server.energy import Price
from shoal.server.json import dumps
from shoal.text.generator import Generation, Usage
from shoal.text.task import GenerationTask
from shoal.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0
_LONG = frozenset({"seed", "logit_bias", "allowed_token_ids", "dry_breaker_ids"})
"""Sampling parameters that `ext.sampling` leaves out: lists of ids, and what has its own entry."""


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Request options that affect the response."""

    fingerprint: str
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    tokens_as_ids: bool = False
    include: tuple[str, ...] = ()
    price: Price | None = None
    """Of CPU time, for usage_cost."""
    created: int = field(default_factory=lambda: int(time.time()))
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Unique part of the response id."""


def float32_value(logprob: float) -> float:
    """Rounds to float32 precision for short output; -inf becomes -9999.0."""
    if math.isnan(logprob) or logprob < MIN_LOGPROB:
        return MIN_LOGPROB
    return float(f"{logprob:.9g}")


def token_text(tokenizer: Tokenizer, token_id: int, *, as_id: bool) -> str:
    return f"token_id:{token_id}" if as_id else tokenizer.token_name(token_id)


def top_texts(
    tokenizer: Tokenizer, entry: TokenLogprobs, k: int, *, as_id: bool
) -> dict[str, float]:
    """The k most likely tokens and the sampled one, by text; equal texts keep the maximum."""
    pairs = [*zip(entry.top_ids[:k], entry.top_logprobs[:k], strict=True)]
    pairs.append((entry.token_id, entry.logprob))
    texts: dict[str, float] = {}
    for token_id, logprob in pairs:
        text, value = token_text(tokenizer, token_id, as_id=as_id), float32_value(logprob)
        texts[text] = max(value, texts.get(text, value))
    return texts


def answer_pieces(
    head: dict[str, Any],
    choices: Iterable[dict[str, Any]],
    tail: dict[str, Any],
    name: str = "choices",
) -> Iterator[bytes]:
    """A whole answer as JSON, choice by choice, so that none has to wait for the others in its
    large form. Neither head nor tail may be empty."""
    before = b'%b,"%b":[' % (dumps(head)[:-1], name.encode())
    for choice in choices:
        yield before + dumps(choice)
        before = b","
    yield b"]," + dumps(tail)[1:]


def usage_dict(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def ext_dict(
    generation: Generation, options: RenderOptions, chosen: list[int] | None = None
) -> dict[str, Any]:
    """The `ext` object with the parts in `include`, but for the trace. `chosen`: indices of the
    sequences that were returned as choices, in order; None = all."""
    task, include, ext = generation.task, options.include, dict[str, Any]()
    if "seed" in include:
        indices = range(task.num_sequences) if chosen is None else chosen
        ext["seed"] = [signed(task.sampling_of(index % task.best_of).seed) for index in indices]
    if "timings" in include:
        ext["timings"] = _timings(generation)
    if "sampling" in include:
        ext["sampling"] = _sampling(task)
    if "queue" in include:
        ext["queue"] = {"position_at_arrival": generation.timings.num_ahead}
    if "token_ids" in include:
        indices = range(task.num_sequences) if chosen is None else chosen
        ext["token_ids"] = [generation.token_ids(index) for index in indices]
    if "truncated" in include:
        ext["truncated"] = [prompt.num_truncated for prompt in task.prompts]
    if "usage_cost" in include and options.price is not None:
        ext["usage_cost"] = options.price.receipt(generation.usage.cpu_seconds)
    return ext


def progress_event(head: dict[str, Any], progress: Progress) -> bytes:
    """An event without choices that says how far a request is which has no token yet."""
    told = {
        "stage": "queued" if progress.position else "prefill",
        "position": progress.position,
        "processed": progress.num_processed,
        "total": progress.num_tokens,
        "eta_ms": progress.eta_ms,
    }
    return sse.event(dumps({**head, "choices": [], "progress": told}))


def closing_event(head: dict[str, Any], options: RenderOptions, generation: Generation) -> bytes:
    """The event without choices before [DONE]: usage and `ext`, if requested."""
    with_usage = options.include_usage or options.continuous_usage
    if not (with_usage or options.include):
        return b""
    record: dict[str, Any] = {**head, "choices": []}
    if with_usage:
        record["usage"] = usage_dict(generation.usage)
    if options.include:
        record["ext"] = ext_dict(generation, options)
    return sse.event(dumps(record))


def signed(seed: int) -> int:
    """The seed as a signed 64-bit integer, as in a request."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def _timings(generation: Generation) -> dict[str, float]:
    timings, now = generation.timings, time.monotonic()
    first = timings.first_token if timings.first_token is not None else now
    decode_s = now - first
    tokens = generation.usage.completion_tokens
    return {
        "queue_ms": round(timings.queue_s * 1000, 1),
        "prefill_ms": round(timings.prefill_s * 1000, 1),
        "decode_ms": round(decode_s * 1000, 1),
        "ttft_ms": round((first - timings.submitted) * 1000, 1),
        "tokens_per_second": round(tokens / decode_s, 1) if decode_s > 0 else 0.0,
    }


def _sampling(task: GenerationTask) -> dict[str, Any]:
    names = (name for name in task.sampling.__struct_fields__ if name not in _LONG)
    return {
        **{name: getattr(task.sampling, name) for name in names},
        "max_tokens": task.stop.max_tokens,
        "min_tokens": task.stop.min_tokens,
    }
