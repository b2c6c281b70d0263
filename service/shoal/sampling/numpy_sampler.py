"""The sampler of numpy: for any backend, without the native library."""

from collections.abc import Sequence

import numpy as np

from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.sampling.arrays import Float32, Float64, Int32, Int64
from shoal.sampling.draw import SPAN, draw, scale
from shoal.sampling.random import MASK_64, uniforms
from shoal.sampling.sampler import SamplingState, mask_logits
from shoal.sampling.truncation import best_tokens, draw_truncated, is_truncated

_AT_ONCE = 1 << 16
"""Numbers handled at once: they stay in the CPU's cache, whatever the batch and vocabulary."""


class NumpySampler:
    """Holds nothing but working memory, so that no step waits for fresh pages of it."""

    def __init__(self, num_token_ids: int) -> None:
        self._num_token_ids = num_token_ids
        self._memory = np.empty((2, 0), np.float32)

    def sample(self, logits: Float32, states: Sequence[SamplingState], positions: Int32) -> Int32:
        tokens = np.empty(len(states), np.int32)
        _, at_once = _shape_for(self._num_token_ids)
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            tokens[part] = self._sample(logits[part], states[part], positions[part])
        return tokens

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        result: list[TokenLogprobs] = []
        _, at_once = _shape_for(logits.shape[1])
        for start in range(0, len(token_ids), at_once):
            part = slice(start, start + at_once)
            result += self._logprobs(logits[part], token_ids[part], nums_top[part])
        return result

    def _working_rows(self, num_rows: int, width: int) -> tuple[Float32, Float32]:
        """Two arrays [num_rows, width] whose content is of no use to anyone else."""
        if self._memory.shape[1] < num_rows * width:
            self._memory = np.empty((2, max(_AT_ONCE, num_rows * width)), np.float32)
        values, scratch = self._memory[:, : num_rows * width].reshape(2, num_rows, width)
        return values, scratch

    def _sample(self, logits: Float32, states: Sequence[SamplingState], positions: Int32) -> Int64:
        """So many rows as are handled at once."""
        width, _ = _shape_for(self._num_token_ids)
        values, scratch = self._working_rows(len(states), width)
        values[:, self._num_token_ids :] = -np.inf
        known = values[:, : self._num_token_ids]
        known[:] = logits[:, : self._num_token_ids]
        for row, state in zip(known, states, strict=True):
            state.apply(row)
            if (mask := state.allow_mask()) is not None:
                mask_logits(row, mask)
        is_finite = np.isfinite(values.max(axis=1))  # a NaN counts as best
        values[~is_finite] = 0
        tokens: Int64 = values.argmax(axis=1)
        params = [state.params for state in states]
        shares = _uniforms(params, positions)
        scale(values, np.array([wanted.temperature for wanted in params], np.float32))
        drawn = [row for row, wanted in enumerate(params) if not wanted.greedy]
        truncated = [row for row in drawn if is_truncated(params[row])]
        if truncated:
            of_rows, scratch = [params[row] for row in truncated], scratch[: len(truncated)]
            picked = draw_truncated(values[truncated], of_rows, shares[truncated], scratch)
            tokens[truncated] = picked
        if whole := [row for row in drawn if row not in truncated]:
            tokens[whole] = draw(values[whole], shares[whole])
        tokens[~is_finite] = -1
        return tokens

    def _logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        num_rows, num_columns = logits.shape
        width, _ = _shape_for(num_columns)
        values, scratch = self._working_rows(num_rows, width)
        values[:, :num_columns] = logits
        values[:, num_columns:] = -np.inf
        is_finite = np.isfinite(values.max(axis=1))
        values[~is_finite] = 0
        log_softmax(values, scratch)
        own = values[np.arange(num_rows), token_ids].tolist()
        top_ids: list[list[int]] = [[]] * num_rows
        top: list[list[float]] = [[]] * num_rows
        if (k := min(max(nums_top), self._num_token_ids)) > 0:
            values[:, self._num_token_ids :] = -np.inf
            best_ids, best = best_tokens(values, k, scratch)
            top_ids, top = best_ids.tolist(), best.tolist()
        return [
            TokenLogprobs(token_id, own[row], top_ids[row][:count], top[row][:count])
            if is_finite[row]
            else TokenLogprobs(token_id, float("-inf"), [], [])
            for row, (token_id, count) in enumerate(zip(token_ids, nums_top, strict=True))
        ]


def log_softmax(values: Float32, scratch: Float32) -> None:
    """Natural log-probabilities of each row [R, width], in place; each row's sum by itself."""
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values, out=scratch).sum(axis=1, keepdims=True))


def _shape_for(num_columns: int) -> tuple[int, int]:
    """(width, rows at once) of working memory for so many logits a row."""
    width = -(-num_columns // SPAN) * SPAN
    return width, max(1, _AT_ONCE // width)


def _uniforms(params: list[SamplingParams], positions: Int32) -> Float64:
    seeds = np.array([wanted.seed & MASK_64 for wanted in params], np.uint64)
    return uniforms(seeds, positions.astype(np.uint64))
