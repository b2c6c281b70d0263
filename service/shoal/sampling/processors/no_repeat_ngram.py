"""no_repeat_ngram_size: no n-gram of this size occurs twice, as in Hugging Face's generate."""

import numpy as np

from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32
from shoal.sampling.processors.base import LogitsProcessor
from shoal.sampling.processors.suffix_matches import SuffixMatches


class NoRepeatNgram(LogitsProcessor):
    """Bans the tokens that would complete an n-gram that prompt or output has already."""

    def __init__(self, size: int, prompt_token_ids: list[int]) -> None:
        self._size = size
        self._matches = SuffixMatches(prompt_token_ids)

    def apply(self, logits: Float32) -> None:
        token_ids, _ = self._matches.followers(self._size - 1)
        logits[token_ids[token_ids < len(logits)]] = -np.inf

    def accept(self, token_id: int) -> None:
        self._matches.append(token_id)


def build(new: NewRow, num_token_ids: int) -> LogitsProcessor | None:
    size = new.sampling.no_repeat_ngram_size
    return NoRepeatNgram(size, new.prompt_token_ids) if size > 0 else None
