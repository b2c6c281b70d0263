"""How a token came about: the model's distribution, and what each step of the sampler left of it.

The steps are those of the sampler itself, run once more on a row that asks for a trace: its
processors, temperature, truncations and random numbers.
"""

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.protocol.trace import TokenTrace, TraceStep
from shoal.sampling.arrays import Float32, Float64, Int64
from shoal.sampling.draw import scale
from shoal.sampling.processors.base import LogitsProcessor
from shoal.sampling.random import MASK_64, uniforms
from shoal.sampling.sampler import SamplingState, mask_logits
from shoal.sampling.truncation import is_truncated, observe_truncations

Bool = NDArray[np.bool_]


def trace_token(
    logits: Float32,
    state: SamplingState,
    position: int,
    report: TokenLogprobs,
    *,
    num_token_ids: int,
    lens: tuple[list[int], list[float]] | None = None,
) -> TokenTrace:
    """Of the token that `report` is about, drawn at `position` from logits [columns]. `state` has
    not accepted it. `lens`: best ids and log-probabilities after each layer."""
    known = logits[:num_token_ids]
    steps = _steps(known, state)
    lens_ids, lens_logprobs = lens or ([], [])
    return TokenTrace(
        token_id=report.token_id,
        logprob=report.logprob,
        rank=_rank(known, report.token_id),
        entropy=_entropy(logits),
        top_ids=report.top_ids,
        top_logprobs=report.top_logprobs,
        steps=steps.found,
        removed_by=steps.removed_by,
        uniform=None if state.params.greedy else _uniform(state.params, position),
        lens_ids=lens_ids,
        lens_logprobs=lens_logprobs,
    )


def _rank(logits: Float32, token_id: int) -> int:
    own = logits[token_id]
    return int((logits > own).sum() + (logits[:token_id] == own).sum()) + 1


def _entropy(logits: Float32) -> float:
    values = logits.astype(np.float64)
    values -= values.max()
    masses = np.exp(values)
    total = masses.sum()
    return float(np.log(total) - (masses * values)[masses > 0].sum() / total)


def _uniform(params: SamplingParams, position: int) -> float:
    seeds = np.array([params.seed & MASK_64], np.uint64)
    return float(uniforms(seeds, np.array([position], np.uint64))[0])


class _Steps:
    """What is left of the tokens of a row, step by step."""

    def __init__(self, best_id: int, masses: Float64) -> None:
        """`masses`: in proportion to the probabilities."""
        self.found: list[TraceStep] = []
        self.removed_by: str | None = None
        self._best_id = best_id
        self._masses = masses
        self._is_left: Bool = masses >= 0

    def add(self, name: str, is_left: Bool, masses: Float64 | None = None) -> None:
        """A step that left these tokens; `masses` where it also changed them."""
        gone = self._masses[self._is_left & ~is_left].sum()
        total = self._masses[self._is_left].sum()
        removed = float(gone / total) if total > 0 else 0.0
        self.found.append(TraceStep(name, int(is_left.sum()), removed))
        if self.removed_by is None and not is_left[self._best_id]:
            self.removed_by = name
        self._is_left = is_left
        self._masses = self._masses if masses is None else masses


def _steps(logits: Float32, state: SamplingState) -> _Steps:
    """The sampler's steps on logits [num_token_ids], which stay as they are."""
    row, params = logits.copy(), state.params
    steps = _Steps(int(row.argmax()), _masses(row))
    for processor in state.processors:
        if type(processor).apply is not LogitsProcessor.apply:
            processor.apply(row)
            steps.add(processor.name, row > -np.inf, _masses(row))
    for processor in state.processors:
        if (mask := processor.allow_mask) is not None:
            mask_logits(row, mask)
            steps.add(processor.name, row > -np.inf)
    if params.greedy:
        return steps
    scaled = row[None]
    scale(scaled, np.array([params.temperature], np.float32))
    masses = np.exp(scaled[0].astype(np.float64))
    if params.temperature != 1.0:
        steps.add("temperature", masses > 0, masses)
    is_on = {
        "top_k": 0 < params.top_k < len(row),
        "top_p": params.top_p < 1,
        "typical_p": params.typical_p < 1,
        "min_p": params.min_p > 0,
    }

    def observe(name: str, ids: Int64, probs: Float64) -> None:
        if is_on[name]:
            is_left = np.zeros(len(row), np.bool_)
            is_left[ids[0][probs[0] > 0]] = True
            steps.add(name, is_left)

    if is_truncated(params):
        observe_truncations(scaled, params, observe)
    return steps


def _masses(logits: Float32) -> Float64:
    """In proportion to the probabilities; all 0 where every token is banned."""
    best = logits.max()
    if not np.isfinite(best):
        return np.zeros(len(logits), np.float64)
    masses: Float64 = np.exp((logits - best).astype(np.float64))
    return masses
