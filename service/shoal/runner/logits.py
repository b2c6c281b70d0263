"""Steps on logits before sampling: pure functions on rows, float32.

Order: bias and bans, penalties, temperature, top_k, top_p, typical_p, min_p. What one row gets
never depends on another row.
"""

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.params import SamplingParams
from shoal.runner.inputs import Float32

BAN = -100.0
"""A bias at or below this removes the token."""


def add_bias(logits: Float32, bias: tuple[tuple[int, float], ...]) -> None:
    """In place, on one row [vocab]."""
    for token_id, value in bias:
        if value <= BAN:
            logits[token_id] = -np.inf
        else:
            logits[token_id] += value


def add_penalties(logits: Float32, counts: NDArray[np.int32], params: SamplingParams) -> None:
    """In place, on one row. `counts` [2, vocab]: in prompt and output. Repetition penalty
    (Keskar et al., 2019) divides positive and multiplies negative logits of all seen tokens;
    frequency and presence penalties count the output only."""
    if params.repetition_penalty != 1.0:
        seen = (counts[0] > 0) | (counts[1] > 0)
        penalty = np.float32(params.repetition_penalty)
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    if params.frequency_penalty != 0.0:
        logits -= counts[1] * np.float32(params.frequency_penalty)
    if params.presence_penalty != 0.0:
        logits -= (counts[1] > 0) * np.float32(params.presence_penalty)


def probabilities(logits: Float32, temperature: float) -> Float32:
    """Softmax of one row over temperature, not normalised: the best token has 1."""
    probs: Float32 = np.exp((logits - logits.max()) / np.float32(temperature))
    return probs


def keep_top_k(probs: Float32, k: int) -> None:
    """Zeroes all but the k best (ties: lowest ids), in place."""
    if 0 < k < len(probs):
        threshold = np.partition(probs, len(probs) - k)[len(probs) - k]
        _keep_from(probs, float(threshold), k)


def keep_top_p(probs: Float32, top_p: float) -> None:
    """Keeps the smallest set of best tokens whose probability reaches top_p (nucleus sampling,
    Holtzman et al., 2020); at least the best one. In place."""
    if top_p >= 1.0:
        return
    candidates = np.flatnonzero(probs)
    order = np.sort(probs[candidates])[::-1]
    sums = np.cumsum(order, dtype=np.float64)
    kept = int(np.searchsorted(sums, top_p * sums[-1], side="left")) + 1
    kept = min(kept, len(order))
    _keep_from(probs, float(order[kept - 1]), kept)


def keep_typical(probs: Float32, typical_p: float) -> None:
    """Keeps the tokens whose surprise is closest to the entropy until their probability reaches
    typical_p (locally typical sampling, Meister et al., 2022). In place."""
    if typical_p >= 1.0:
        return
    candidates = np.flatnonzero(probs)
    share = probs[candidates].astype(np.float64)
    share /= share.sum()
    surprise = -np.log(share)
    distance = np.abs(surprise - (share * surprise).sum())
    order = np.argsort(distance, kind="stable")
    kept = int(np.searchsorted(np.cumsum(share[order]), typical_p, side="left")) + 1
    probs[candidates[order[kept:]]] = 0


def keep_min_p(probs: Float32, min_p: float) -> None:
    """Zeroes tokens less likely than min_p times the best (Nguyen et al., 2024). In place."""
    if min_p > 0.0:
        probs[probs < np.float32(min_p) * probs.max()] = 0


def draw(probs: Float32, uniform: float) -> int:
    """The token at this share of the kept mass, in order of ids."""
    sums = np.cumsum(probs, dtype=np.float64)
    token_id = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return min(token_id, int(np.flatnonzero(probs)[-1]))


def _keep_from(probs: Float32, threshold: float, count: int) -> None:
    """Keeps `count` tokens: all above the threshold, of those equal to it the lowest ids."""
    equal = np.flatnonzero(probs == np.float32(threshold))
    num_above = int(np.count_nonzero(probs > np.float32(threshold)))
    probs[probs < np.float32(threshold)] = 0
    probs[equal[max(0, count - num_above) :]] = 0
