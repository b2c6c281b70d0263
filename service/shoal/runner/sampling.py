"""How the runner's rows are sampled: the interface, and the sampler of numpy behind it.

Whatever samples gives the same token for the same logits, parameters, seed and position.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shoal.protocol.messages import TokenLogprobs
from shoal.runner.inputs import Float32, Int32
from shoal.runner.rows import Row
from shoal.runner.sampler import Sampler, SampleRow


class Sampling(Protocol):
    """Tokens and log-probabilities of lines of logits [n, token ids], which stay as they are."""

    def sample(self, logits: Float32, rows: Sequence[Row], positions: Int32) -> Int32:
        """A token for each row at its position; -1 where no logit is finite."""
        ...

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_best: Sequence[int]
    ) -> list[TokenLogprobs]:
        """Of each line's token and of its `nums_best` best."""
        ...


class NumpySampling:
    """Any backend, without the library."""

    def __init__(self, num_token_ids: int) -> None:
        self._sampler = Sampler(num_token_ids)

    def sample(self, logits: Float32, rows: Sequence[Row], positions: Int32) -> Int32:
        wishes = [sample_row(row, int(at)) for row, at in zip(rows, positions, strict=True)]
        tokens = self._sampler.sample(logits, wishes)
        return np.array([-1 if token is None else token for token in tokens], np.int32)

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_best: Sequence[int]
    ) -> list[TokenLogprobs]:
        return self._sampler.logprobs(logits, token_ids, nums_best)


def sample_row(row: Row, position: int) -> SampleRow:
    """A row's wishes for the token at `position`."""
    new = row.new
    has_bans = position - new.num_prompt_tokens < new.min_tokens
    banned = new.banned_until_min if has_bans else ()
    return SampleRow(new.sampling, position, banned, row.counts)
