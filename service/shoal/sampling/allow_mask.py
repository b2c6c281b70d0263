"""Allow-masks of a vocabulary: token i is bit i % 32 of word i // 32, counted from the lowest."""

from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np

from shoal.sampling.arrays import UInt32

_kept: "WeakValueDictionary[tuple[bytes, int, tuple[int, ...]], UInt32]" = WeakValueDictionary()


def mask_of_tokens(computed: bytes, num_token_ids: int, end_ids: tuple[int, ...]) -> UInt32:
    """Of what llguidance computed (32-bit words), with bits beyond the vocabulary: for the end,
    which becomes those of the end tokens, and for copies, which is dropped. Not to be changed: for
    the same it is the same one, as long as somebody has it."""
    key = computed, num_token_ids, end_ids
    if (mask := _kept.get(key)) is None:
        words = np.frombuffer(computed, np.uint32)
        mask = _kept[key] = _mask_of_words(words, num_token_ids, end_ids)
    return mask


def _mask_of_words(computed: UInt32, num_token_ids: int, end_ids: tuple[int, ...]) -> UInt32:
    word, bit = divmod(num_token_ids, 32)
    if beyond := computed.item(word) >> bit:
        computed = computed.copy()
        computed[word] &= np.uint32((1 << bit) - 1)
        for end_id in end_ids if beyond & 1 else ():
            computed[end_id // 32] |= np.uint32(1 << end_id % 32)
    return computed[: -(-num_token_ids // 32)]


@lru_cache(256)
def mask_of_one(token_id: int, num_token_ids: int) -> UInt32:
    """Allows that token only. Not to be changed."""
    bits = np.zeros(-(-num_token_ids // 32), np.uint32)
    bits[token_id // 32] = np.uint32(1 << token_id % 32)
    return bits
