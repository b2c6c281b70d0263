"""An independent sampler in float64, one row at a time and slow: what the fast one must equal."""

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.params import SamplingParams
from shoal.sampling.random import uniforms

Float64 = NDArray[np.float64]


def kept_probabilities(logits: Float64, params: SamplingParams) -> Float64:
    """Probabilities [vocab] after temperature and truncation; 0 for what is cut off."""
    scaled = (logits - logits.max()) / params.temperature
    probs = np.exp(scaled)
    if params.top_k:
        best_first = np.lexsort((np.arange(len(probs)), -scaled))
        probs[best_first[params.top_k :]] = 0
    if params.top_p < 1.0:
        probs = _until(probs, np.lexsort((np.arange(len(probs)), -scaled)), params.top_p)
    if params.typical_p < 1.0:
        share = probs / probs.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(share)
            entropy = np.nansum(share * surprise)
        distance = np.where(probs > 0, np.abs(surprise - entropy), np.inf)
        probs = _until(probs, np.argsort(distance, kind="stable"), params.typical_p)
    probs = np.where(probs < params.min_p * probs.max(), 0, probs)
    return probs / probs.sum()


def adjusted(
    logits: Float64, prompt: list[int], output: list[int], params: SamplingParams
) -> Float64:
    """Bias, then penalties, in plain loops."""
    changed = logits.copy()
    for token_id, bias in params.logit_bias:
        changed[token_id] = -np.inf if bias <= -100 else changed[token_id] + bias
    for token_id in set(prompt + output):
        factor = params.repetition_penalty
        changed[token_id] *= factor if changed[token_id] < 0 else 1 / factor
    for token_id in set(output):
        changed[token_id] -= params.frequency_penalty * output.count(token_id)
        changed[token_id] -= params.presence_penalty
    return changed


def uniform_of(seed: int, position: int) -> float:
    return float(uniforms(np.array([seed], np.uint64), np.array([position], np.uint64))[0])


def _until(probs: Float64, order: NDArray[np.int64], share: float) -> Float64:
    """Keeps the fewest first tokens of `order` that hold this share of the mass."""
    kept, mass = np.zeros_like(probs), 0.0
    for token_id in order:
        kept[token_id] = probs[token_id]
        mass += probs[token_id]
        if mass >= share * probs.sum():
            break
    return kept
