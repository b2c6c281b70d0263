"""include "trace": how each output token came about, as JSON."""

from collections.abc import Sequence
from math import exp
from typing import Any

from shoal.config import Settings
from shoal.errors import InvalidRequest
from shoal.protocol.trace import TokenTrace
from shoal.server.api.generation.fields import GenerationFields
from shoal.server.api.generation.serialize import float32_value, token_text
from shoal.text.delta import Delta
from shoal.text.tokenizer import Tokenizer

DEFAULT_ALTERNATIVES = 5


def trace_alternatives(
    fields: GenerationFields, num_top: int | None, num_tokens: int, settings: Settings
) -> int | None:
    """Alternatives that a trace shows of each token: as many as the log-probabilities; None without
    a trace. `num_tokens`: most that the request may generate. Raises InvalidRequest when these are
    too many."""
    if "trace" not in fields.include:
        return None
    if num_tokens > settings.max_trace_tokens:
        raise InvalidRequest(
            f"a request with a trace may generate at most {settings.max_trace_tokens} tokens, all "
            f"its choices together; this one up to {num_tokens}",
            param="include",
            hint="lower max_tokens or n",
        )
    return num_top or DEFAULT_ALTERNATIVES


def trace_entries(
    tokenizer: Tokenizer, traces: Sequence[TokenTrace], *, as_id: bool
) -> list[dict[str, Any]]:
    """One object for each token."""

    def named(token_id: int) -> dict[str, Any]:
        return {"token": token_text(tokenizer, token_id, as_id=as_id), "id": token_id}

    return [
        {
            **named(trace.token_id),
            "logprob": float32_value(trace.logprob),
            "rank": trace.rank,
            "entropy": trace.entropy,
            "alternatives": [
                {**named(token_id), "logprob": float32_value(logprob)}
                for token_id, logprob in zip(trace.top_ids, trace.top_logprobs, strict=True)
            ],
            "steps": [
                {"step": step.name, "left": step.num_left, "removed": step.removed}
                for step in trace.steps
            ],
            "removed_by": trace.removed_by,
            "uniform": trace.uniform,
            "lens": [
                {**named(token_id), "probability": exp(logprob)}
                for token_id, logprob in zip(trace.lens_ids, trace.lens_logprobs, strict=True)
            ],
        }
        for trace in traces
    ]


def traces_of_choices(
    tokenizer: Tokenizer, choices: list[Delta], *, as_id: bool
) -> list[dict[str, Any]]:
    """Of a whole answer: the tokens of all choices, each with the index of its choice."""
    return [
        {"index": index, **entry}
        for index, choice in enumerate(choices)
        for entry in trace_entries(tokenizer, choice.traces, as_id=as_id)
    ]
