"""Steps on logits before the draw: pure functions, float32, each on one row alone.

Order: bias and bans, penalties, temperature. What truncates (top_k and its kin) and draws is in
`draw.py`.
"""

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.params import SamplingParams
from shoal.runner.inputs import Float32

BAN = -100.0
"""A bias at or below this removes the token."""
_SMALLEST = np.finfo(np.float32).tiny


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
        seen = np.flatnonzero(counts[0] | counts[1])
        penalty = np.float32(params.repetition_penalty)
        found = logits[seen]
        logits[seen] = np.where(found > 0, found / penalty, found * penalty)
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        seen = np.flatnonzero(counts[1])
        logits[seen] -= counts[1, seen] * np.float32(params.frequency_penalty)
        logits[seen] -= np.float32(params.presence_penalty)


def scale(logits: Float32, temperatures: Float32) -> None:
    """Subtracts each row's maximum, then divides by its temperature: the best becomes 0 exactly,
    so any temperature above 0 is safe. In place; logits [R, vocab], temperatures [R]."""
    logits -= logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # far tokens become -inf under a tiny temperature
        logits /= np.maximum(temperatures, _SMALLEST)[:, None]
