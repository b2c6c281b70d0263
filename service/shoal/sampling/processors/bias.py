"""logit_bias: a number added to the logits of single tokens; a large negative one bans them."""

import numpy as np

from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32
from shoal.sampling.processors.base import LogitsProcessor, known_ids

BAN = -100.0
"""A bias at or below this removes the token."""


class Bias(LogitsProcessor):
    """The same for every token of the sequence."""

    def __init__(self, bias: dict[int, float], num_token_ids: int) -> None:
        self._ids = known_ids(bias, num_token_ids)
        values = [bias[token_id] for token_id in self._ids.tolist()]
        self._values = np.array([-np.inf if v <= BAN else v for v in values], np.float32)

    def apply(self, logits: Float32) -> None:
        logits[self._ids] += self._values


def build(new: NewRow, num_token_ids: int) -> LogitsProcessor | None:
    bias = dict(new.sampling.logit_bias)
    return Bias(bias, num_token_ids) if bias else None
