"""Where the end of a sequence occurred before: what no_repeat_ngram_size and DRY look at."""

import numpy as np

from shoal.sampling.arrays import Int32

_SPARE = 256
"""Room for further tokens, so that not every one copies the arrays."""


class SuffixMatches:
    """For each earlier place in a sequence, how many tokens up to it equal those at the end."""

    def __init__(self, token_ids: list[int]) -> None:
        self._num = len(token_ids)
        self._tokens: Int32 = np.zeros(self._num + _SPARE, np.int32)
        self._tokens[: self._num] = token_ids
        self._lengths: Int32 = np.zeros(self._num + _SPARE, np.int32)
        self._lengths[: max(0, self._num - 1)] = _common_suffixes(token_ids)

    def append(self, token_id: int) -> None:
        """One more token at the end: a match goes on where the same token followed it."""
        num = self._num
        if num == len(self._tokens):
            self._tokens = np.append(self._tokens, np.zeros(num, np.int32))
            self._lengths = np.append(self._lengths, np.zeros(num, np.int32))
        self._tokens[num] = token_id
        if num > 0:
            same = self._tokens[:num] == token_id
            self._lengths[1:num] = self._lengths[: num - 1] + 1
            self._lengths[0] = 1
            self._lengths[:num] *= same
        self._num = num + 1

    def followers(self, min_length: int) -> tuple[Int32, Int32]:
        """The tokens that followed the matches of at least this length, and those lengths. A
        length of 0 matches every place, also the one before the first token."""
        num = self._num
        if min_length == 0:
            return self._tokens[:num], np.zeros(num, np.int32)
        (found,) = np.nonzero(self._lengths[: max(0, num - 1)] >= min_length)
        return self._tokens[found + 1], self._lengths[found]


def _common_suffixes(token_ids: list[int]) -> list[int]:
    """For each place but the last: the length of the longest common suffix of the tokens up to it
    and of all tokens. The Z-algorithm (Gusfield, 1997) on the reversed sequence."""
    text = token_ids[::-1]
    num = len(text)
    lengths = [0] * num
    left = right = 0  # the match text[left:right] == text[: right - left] that reaches furthest
    for start in range(1, num):
        length = min(right - start, lengths[start - left]) if start < right else 0
        while start + length < num and text[length] == text[start + length]:
            length += 1
        lengths[start] = length
        if start + length > right:
            left, right = start, start + length
    return lengths[:0:-1]
