"""Allow-masks of a vocabulary: token i is bit i % 32 of word i // 32, counted from the lowest."""

from collections.abc import Sequence

import numpy as np

from shoal.sampling.arrays import UInt32


def mask_of_tokens(computed: UInt32, num_token_ids: int, end_ids: Sequence[int]) -> UInt32:
    """Of what llguidance computed [words], with bits beyond the vocabulary: for the end, which
    becomes those of the end tokens, and for copies, which is dropped."""
    word, bit = divmod(num_token_ids, 32)
    if beyond := computed.item(word) >> bit:
        computed = computed.copy()
        computed[word] &= np.uint32((1 << bit) - 1)
        for end_id in end_ids if beyond & 1 else ():
            computed[end_id // 32] |= np.uint32(1 << end_id % 32)
    return computed[: -(-num_token_ids // 32)]


def mask_of_one(token_id: int, num_token_ids: int) -> UInt32:
    """Allows that token only."""
    bits = np.zeros(-(-num_token_ids // 32), np.uint32)
    bits[token_id // 32] = np.uint32(1 << token_id % 32)
    return bits
