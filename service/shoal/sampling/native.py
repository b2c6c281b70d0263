"""The sampler of the native library, for logits of the native backend. Processors change a copy of
the few logits that they concern."""

from collections.abc import Sequence

import numpy as np

from shoal.kernels.sampling import NativeSampler as Kernel
from shoal.kernels.sampling import RowParams
from shoal.protocol.messages import TokenLogprobs
from shoal.sampling.arrays import Float32, Int32
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.random import MASK_64
from shoal.sampling.sampler import SamplingState, mask_logits


class NativeSampler:
    """Raises RuntimeError where the library is not built. A row's parameters live in arrays as
    long as the batch."""

    def __init__(self, num_token_ids: int) -> None:
        self._num_token_ids = num_token_ids
        self._kernel = Kernel(num_token_ids)
        self._padded = NumpySampler(num_token_ids)
        self._states: Sequence[SamplingState] = ()

    def sample(self, logits: Float32, states: Sequence[SamplingState], positions: Int32) -> Int32:
        if states is not self._states:
            self._params = self._make_params(states)
            self._changing = [(row, state) for row, state in enumerate(states) if state.processors]
            self._states = states
        self._params.position[:] = positions
        known = logits[:, : self._num_token_ids]
        if not self._changing:
            return self._kernel.sample(np.ascontiguousarray(known), self._params)
        known = known.copy()
        for row, state in self._changing:
            state.apply(known[row])
            if (mask := state.allow_mask()) is not None:
                mask_logits(known[row], mask)
        return self._kernel.sample(known, self._params)

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        if logits.shape[1] > self._num_token_ids:
            return self._padded.logprobs(logits, token_ids, nums_top)
        own, top_ids, top = self._kernel.logprobs(
            logits, np.array(token_ids, np.int32), np.array(nums_top, np.int32)
        )
        counts = (top_ids >= 0).sum(axis=1).tolist()
        return [
            TokenLogprobs(token_id, logprob, ids[:count], logprobs[:count])
            for token_id, logprob, ids, logprobs, count in zip(
                token_ids, own.tolist(), top_ids.tolist(), top.tolist(), counts, strict=True
            )
        ]

    def _make_params(self, states: Sequence[SamplingState]) -> RowParams:
        params = [state.params for state in states]
        most = self._num_token_ids
        return RowParams(
            temperature=np.array([wanted.temperature for wanted in params], np.float32),
            top_k=np.array([min(wanted.top_k, most) for wanted in params], np.int32),
            top_p=np.array([wanted.top_p for wanted in params], np.float64),
            min_p=np.array([wanted.min_p for wanted in params], np.float64),
            typical_p=np.array([wanted.typical_p for wanted in params], np.float64),
            seed=np.array([wanted.seed & MASK_64 for wanted in params], np.uint64),
            position=np.zeros(len(params), np.uint64),
        )
