"""DRY ("don't repeat yourself", p-e-w, 2024): the longer a repetition, the larger the penalty of
the token that would lengthen it. As in llama.cpp, with the whole context as its range."""

import numpy as np

from shoal.protocol.params import SamplingParams
from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32
from shoal.sampling.processors.base import LogitsProcessor
from shoal.sampling.processors.suffix_matches import SuffixMatches

_MAX_PENALTY = 1e30
"""As good as a ban, and still a finite number."""


class Dry(LogitsProcessor):
    """Subtracts multiplier * base ** (length - allowed_length) from each token that followed a
    match of `length` >= `allowed_length` tokens. A match reaches back to the last breaker at most,
    and breakers themselves are never penalized."""

    def __init__(
        self, params: SamplingParams, prompt_token_ids: list[int], num_token_ids: int
    ) -> None:
        self._multiplier = params.dry_multiplier
        self._base = params.dry_base
        self._allowed_length = params.dry_allowed_length
        self._breakers = frozenset(params.dry_breaker_ids)
        self._is_breaker = np.zeros(num_token_ids, np.bool_)
        self._is_breaker[[i for i in params.dry_breaker_ids if i < num_token_ids]] = True
        self._matches = SuffixMatches(prompt_token_ids)
        self._num_since_breaker = 0
        for token_id in prompt_token_ids:
            self._count(token_id)

    def apply(self, logits: Float32) -> None:
        if self._num_since_breaker < self._allowed_length:
            return
        token_ids, lengths = self._matches.followers(self._allowed_length)
        is_penalized = token_ids < len(logits)
        is_penalized[is_penalized] = ~self._is_breaker[token_ids[is_penalized]]
        longest = np.zeros(len(logits), np.int32)
        lengths = np.minimum(lengths, self._num_since_breaker)
        np.maximum.at(longest, token_ids[is_penalized], lengths[is_penalized])
        (penalized,) = np.nonzero(longest)
        with np.errstate(over="ignore"):
            penalties = self._base ** (longest[penalized].astype(np.float64) - self._allowed_length)
            penalties = np.minimum(self._multiplier * penalties, _MAX_PENALTY)
        logits[penalized] -= penalties.astype(np.float32)

    def accept(self, token_id: int) -> None:
        self._matches.append(token_id)
        self._count(token_id)

    def _count(self, token_id: int) -> None:
        is_breaker = token_id in self._breakers
        self._num_since_breaker = 0 if is_breaker else self._num_since_breaker + 1


def build(new: NewRow, num_token_ids: int) -> LogitsProcessor | None:
    if new.sampling.dry_multiplier <= 0:
        return None
    return Dry(new.sampling, new.prompt_token_ids, num_token_ids)
