"""allowed_token_ids: nothing but these tokens is sampled."""

import numpy as np

from shoal.protocol.step import NewRow
from shoal.sampling.arrays import UInt32
from shoal.sampling.processors.base import LogitsProcessor, known_ids


class AllowedTokens(LogitsProcessor):
    """The same mask for every token of the sequence."""

    def __init__(self, token_ids: tuple[int, ...], num_token_ids: int) -> None:
        ids = known_ids(token_ids, num_token_ids)
        self._mask: UInt32 = np.zeros(-(-num_token_ids // 32), np.uint32)
        bits = np.uint32(1) << (ids % 32).astype(np.uint32)
        np.bitwise_or.at(self._mask, ids // 32, bits)

    @property
    def allow_mask(self) -> UInt32:
        return self._mask


def build(new: NewRow, num_token_ids: int) -> LogitsProcessor | None:
    allowed = new.sampling.allowed_token_ids
    return AllowedTokens(allowed, num_token_ids) if allowed else None
