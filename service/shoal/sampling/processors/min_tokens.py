"""min_tokens: until so many output tokens exist, nothing that ends the sequence is sampled."""

import numpy as np

from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32
from shoal.sampling.processors.base import LogitsProcessor, known_ids


class MinTokens(LogitsProcessor):
    """Bans the end and stop ids of the first `min_tokens` output tokens."""

    def __init__(self, stop_ids: tuple[int, ...], min_tokens: int, num_token_ids: int) -> None:
        self._stop_ids = known_ids(stop_ids, num_token_ids)
        self._num_left = min_tokens

    def apply(self, logits: Float32) -> None:
        if self._num_left > 0:
            logits[self._stop_ids] = -np.inf

    def accept(self, token_id: int) -> None:
        self._num_left -= 1


def build(new: NewRow, num_token_ids: int) -> LogitsProcessor | None:
    stop = new.stop
    if stop.min_tokens <= 0 or not stop.all_stop_ids:
        return None
    return MinTokens(stop.all_stop_ids, stop.min_tokens, num_token_ids)
