"""Logits to tokens: one argmax for all greedy rows, more work only for rows that ask for it.

Torch-free, so that every backend shares it. A row's token depends on its own logits, parameters
and (seed, position) alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.runner import logits as steps
from shoal.runner.inputs import Float32
from shoal.runner.rng import uniforms


@dataclass(slots=True)
class SampleRow:
    """One row's wishes."""

    params: SamplingParams
    position: int
    """Of the token to be sampled, in its sequence."""
    banned: tuple[int, ...] = ()
    counts: NDArray[np.int32] | None = None
    """[2, vocab] tokens in prompt and output; present when there are penalties."""

    @property
    def plain(self) -> bool:
        """Are the logits used as they are?"""
        return not (self.banned or self.params.logit_bias or self.counts is not None)


def sample(logits: Float32, rows: list[SampleRow]) -> list[int | None]:
    """One token per row of logits [R, vocab]; None for a row without a finite best logit.
    `logits` is not changed."""
    best = logits.argmax(axis=1)
    finite = np.isfinite(logits[np.arange(len(rows)), best])  # argmax finds a NaN if there is one
    tokens: list[int | None] = best.tolist()
    drawn = [index for index, row in enumerate(rows) if finite[index] and not row.params.greedy]
    numbers = _uniforms([rows[index] for index in drawn])
    for index, uniform in zip(drawn, numbers, strict=True):
        tokens[index] = _draw(_processed(logits[index], rows[index]), rows[index].params, uniform)
    for index, row in enumerate(rows):
        if not finite[index]:
            tokens[index] = None
        elif row.params.greedy and not row.plain:
            processed = _processed(logits[index], row)
            token_id = int(processed.argmax())
            tokens[index] = token_id if np.isfinite(processed[token_id]) else None
    return tokens


def log_softmax(logits: Float32) -> Float32:
    """Natural log-probabilities of one row; sums in float64, in order of ids."""
    best = logits.max()
    total = np.exp((logits - best).astype(np.float64)).sum()
    values: Float32 = (logits - best) - np.float32(np.log(total))
    return values


def token_logprobs(logits: Float32, token_id: int, k: int) -> TokenLogprobs:
    """The token's log-probability and the k best, ties by lowest id."""
    values = log_softmax(logits)
    top: list[int] = []
    if k > 0:
        k = min(k, len(values))
        threshold = np.partition(values, len(values) - k)[len(values) - k]
        candidates = np.flatnonzero(values >= threshold)
        order = np.argsort(-values[candidates], kind="stable")[:k]
        top = candidates[order].tolist()
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(values[token_id]),
        top_ids=top,
        top_logprobs=values[top].tolist(),
    )


def _processed(logits: Float32, row: SampleRow) -> Float32:
    """Bias, bans and penalties on a copy of one row."""
    if row.plain:
        return logits
    changed = logits.copy()
    steps.add_bias(changed, row.params.logit_bias)
    if row.banned:
        changed[list(row.banned)] = -np.inf
    if row.counts is not None:
        steps.add_penalties(changed, row.counts, row.params)
    return changed


def _draw(logits: Float32, params: SamplingParams, uniform: float) -> int | None:
    probs = steps.probabilities(logits, params.temperature)
    if not np.isfinite(probs).all():  # everything was banned
        return None
    steps.keep_top_k(probs, params.top_k)
    steps.keep_top_p(probs, params.top_p)
    steps.keep_typical(probs, params.typical_p)
    steps.keep_min_p(probs, params.min_p)
    return steps.draw(probs, uniform)


def _uniforms(rows: list[SampleRow]) -> list[float]:
    if not rows:
        return []
    seeds = np.array([row.params.seed for row in rows], np.uint64)
    positions = np.array([row.position for row in rows], np.uint64)
    numbers: list[float] = uniforms(seeds, positions).tolist()
    return numbers
