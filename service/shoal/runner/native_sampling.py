"""The native sampler behind the runner's rows: `SampleRow`s become arrays that live as long as
the batch. Bias, bans and penalties are put on a copy of the few logits that they concern."""

from collections.abc import Sequence

import numpy as np

from shoal.kernels.sampling import NativeSampler, RowParams
from shoal.protocol.messages import TokenLogprobs
from shoal.runner.inputs import Float32, Int32
from shoal.runner.rows import Row
from shoal.runner.sampler import adjust
from shoal.runner.sampling import sample_row

_MASK_64 = (1 << 64) - 1


class NativeSampling:
    """For logits of the native backend. Raises RuntimeError where the library is not built."""

    def __init__(self, num_token_ids: int) -> None:
        self._num_token_ids = num_token_ids
        self._sampler = NativeSampler(num_token_ids)
        self._rows: Sequence[Row] = ()
        self._changing: list[int] = []

    def sample(self, logits: Float32, rows: Sequence[Row], positions: Int32) -> Int32:
        """A token for each row at its position; -1 where no logit is finite. A list of rows that
        was given before must hold the same rows."""
        if rows is not self._rows:
            self._params = self._make_params(rows)
            self._changing = [at for at, row in enumerate(rows) if not row.is_plain]
            self._rows = rows
        self._params.position[:] = positions
        if self._changing:
            logits = self._adjusted(logits, rows, positions)
        return self._sampler.sample(logits, self._params)

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_best: Sequence[int]
    ) -> list[TokenLogprobs]:
        """Of each line's token and of its `nums_best` best."""
        own, best_ids, best = self._sampler.logprobs(
            logits, np.array(token_ids, np.int32), np.array(nums_best, np.int32)
        )
        counts = (best_ids >= 0).sum(axis=1).tolist()
        return [
            TokenLogprobs(token_id, logprob, ids[:count], logprobs[:count])
            for token_id, logprob, ids, logprobs, count in zip(
                token_ids, own.tolist(), best_ids.tolist(), best.tolist(), counts, strict=True
            )
        ]

    def _make_params(self, rows: Sequence[Row]) -> RowParams:
        wishes = [row.new.sampling for row in rows]
        most = self._num_token_ids
        return RowParams(
            temperature=np.array([wish.temperature for wish in wishes], np.float32),
            top_k=np.array([min(wish.top_k, most) for wish in wishes], np.int32),
            top_p=np.array([wish.top_p for wish in wishes], np.float64),
            min_p=np.array([wish.min_p for wish in wishes], np.float64),
            typical_p=np.array([wish.typical_p for wish in wishes], np.float64),
            seed=np.array([wish.seed & _MASK_64 for wish in wishes], np.uint64),
            position=np.zeros(len(wishes), np.uint64),
        )

    def _adjusted(self, logits: Float32, rows: Sequence[Row], positions: Int32) -> Float32:
        found = logits.copy()
        for at in self._changing:
            row = sample_row(rows[at], int(positions[at]))
            if not row.is_plain:
                adjust(found[at], row)
        return found
