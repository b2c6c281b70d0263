"""How a token came about: the model's distribution, and what each step of the sampler left of it.

The steps are those of the sampler itself, run once more on a row that asks for a trace: its
processors, temperature, truncations and random numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.protocol.trace import TokenTrace, TraceStep
from shoal.sampling.arrays import Float32, Float64, Int64
from shoal.sampling.draw import scale
from shoal.sampling.processors.base import LogitsProcessor
from shoal.sampling.random import uniforms
from shoal.sampling.sampler import SamplingState, mask_logits, seed_of_draw
from shoal.sampling.truncation import is_truncated, observe_truncations

_FLOAT32 = np.finfo(np.float32)


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
        uniform=None if state.params.greedy else _uniform(state, position),
        lens_ids=lens_ids,
        lens_logprobs=lens_logprobs,
    )


def _rank(logits: Float32, token_id: int) -> int:
    own = logits[token_id]
    return _count(logits > own) + _count(logits[:token_id] == own) + 1


def _entropy(logits: Float32) -> float:
    values = np.maximum(logits - logits.max(), _FLOAT32.min)  # 0 times -inf would be no number
    masses = np.exp(values)
    total = masses.sum(dtype=np.float64)
    return float(np.log(total) - (masses * values).sum(dtype=np.float64) / total)


def _uniform(state: SamplingState, position: int) -> float:
    """The number that drew the token: the next one where a draw was refused."""
    num_refused = 0 if state.grammar is None else state.grammar.num_refused
    seeds = np.array([seed_of_draw(state.params.seed, num_refused)], np.uint64)
    return float(uniforms(seeds, np.array([position], np.uint64))[0])


class _Steps:
    """What is left of the tokens of a row, step by step."""

    def __init__(self, num_left: int, mass: float) -> None:
        """`mass`: of the tokens that are left, in any unit."""
        self.found: list[TraceStep] = []
        self.removed_by: str | None = None
        self.mass = mass
        self._num_left = num_left

    def add(self, name: str, num_left: int, mass: float, *, has_best: bool) -> None:
        """A step that left so many tokens, which had this mass before it."""
        removed = 0.0
        if num_left != self._num_left and self.mass > 0:
            removed = max(0.0, 1 - mass / self.mass)
        self.found.append(TraceStep(name, num_left, removed))
        if self.removed_by is None and not has_best:
            self.removed_by = name
        self._num_left, self.mass = num_left, mass


def _steps(logits: Float32, state: SamplingState) -> _Steps:
    """The sampler's steps on logits [num_token_ids], which stay as they are."""
    params = state.params
    if state.takes_best:
        return _Steps(len(logits), 0.0)
    row, best_id = logits.copy(), int(logits.argmax())
    masses = _masses(row)
    steps = _Steps(len(row), _sum(masses))

    def add_processor(name: str) -> None:
        nonlocal masses
        is_left = row > -np.inf
        steps.add(
            name,
            _count(is_left),
            _sum(masses * is_left),
            has_best=bool(is_left[best_id]),
        )
        masses = _masses(row)
        steps.mass = _sum(masses)

    for processor in state.processors:
        if type(processor).apply is not LogitsProcessor.apply:
            processor.apply(row)
            add_processor(processor.name)
    for processor in state.processors:
        if (mask := processor.allow_mask) is not None:
            mask_logits(row, mask)
            add_processor(processor.name)
    if not params.greedy:
        _add_draw(steps, row[None], params, best_id)
    return steps


def _add_draw(steps: _Steps, scaled: Float32, params: SamplingParams, best_id: int) -> None:
    """Temperature and truncations of processed logits [1, num_token_ids], which are overwritten."""
    scale(scaled, np.array([params.temperature], np.float32))
    if params.temperature != 1.0:
        masses = np.exp(scaled[0])
        num_left = _count(masses)  # far tokens have no share left in a float
        steps.add("temperature", num_left, steps.mass, has_best=bool(masses[best_id] > 0))
        steps.mass = _sum(masses)
    is_on = {
        "top_k": 0 < params.top_k < scaled.shape[1],
        "top_p": params.top_p < 1,
        "typical_p": params.typical_p < 1,
        "min_p": params.min_p > 0,
    }

    def observe(name: str, ids: Int64, probs: Float64) -> None:
        if is_on[name]:
            has_best = bool((probs[ids == best_id] > 0).any())
            steps.add(name, _count(probs), float(probs.sum()), has_best=has_best)

    if is_truncated(params):
        observe_truncations(scaled, params, observe)


def _masses(logits: Float32) -> Float32:
    """In proportion to the probabilities; all 0 where every token is banned."""
    best = logits.max()
    if not np.isfinite(best):
        return np.zeros_like(logits)
    masses: Float32 = np.exp(logits - best)
    return masses


def _sum(masses: Float32) -> float:
    return float(masses.sum(dtype=np.float64))


def _count(values: NDArray[Any]) -> int:
    """How many are not 0."""
    return int(np.count_nonzero(values))
