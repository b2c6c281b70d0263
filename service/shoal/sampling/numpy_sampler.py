"""The sampler of numpy: for any backend, without the native library."""

from collections.abc import Sequence

import numpy as np

from shoal.protocol.messages import TokenLogprobs
from shoal.sampling.arrays import Float32, Int32, Int64
from shoal.sampling.draw import SPAN, draw, scale
from shoal.sampling.random import uniforms
from shoal.sampling.sampler import NUM_OTHERS, SamplingState, mask_logits, seed_of_draw
from shoal.sampling.truncation import best_tokens, draw_truncated, is_truncated

_AT_ONCE = 1 << 16
"""Numbers handled at once, whatever the batch and vocabulary."""


class NumpySampler:
    """Keeps nothing between calls."""

    def __init__(self, num_token_ids: int) -> None:
        self._num_token_ids = num_token_ids

    def sample(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        positions: Int32,
        best_ids: Int32 | None = None,
    ) -> Int32:
        """`best_ids` spare it nothing."""
        parts = _parts(len(states), self._num_token_ids)
        drawn = [self._sample(logits[part], states[part], positions[part]) for part in parts]
        tokens = np.concatenate(drawn).astype(np.int32)
        for row, state in enumerate(states):
            if state.asked is not None and not state.asked.admits(tokens.item(row)):
                one = slice(row, row + 1)
                tokens[one] = self._draw_again(
                    logits[one], states[one], positions[one], tokens.item(row)
                )
        return tokens

    def accept(self, states: Sequence[SamplingState], tokens: Sequence[int | None]) -> list[int]:
        for state, token_id in zip(states, tokens, strict=True):
            if token_id is not None:
                state.accept(token_id)
        return [row for row, state in enumerate(states) if not state.goes_on]

    def told(self, state: SamplingState) -> None:
        """It keeps nothing of it."""

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        result: list[TokenLogprobs] = []
        for part in _parts(len(token_ids), logits.shape[1]):
            result += self._logprobs(logits[part], token_ids[part], nums_top[part])
        return result

    def _draw_again(
        self, logits: Float32, states: Sequence[SamplingState], positions: Int32, refused: int
    ) -> Int64:
        """Of one row, whose grammar refuses that token."""
        grammar = states[0].asked
        assert grammar is not None, "a grammar refused"
        all_refused = [refused]
        while grammar.is_free and len(all_refused) <= NUM_OTHERS:
            tokens = self._sample(logits, states, positions, len(all_refused), all_refused)
            if grammar.admits(tokens.item(0)):
                return tokens
            all_refused.append(tokens.item(0))
        return self._sample(logits, states, positions, len(all_refused))

    def _sample(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        positions: Int32,
        num_refused: int = 0,
        refused: Sequence[int] = (),
    ) -> Int64:
        """`num_refused`: draws before. What is allowed counts from the second on, but for one that
        only knows the tokens that were `refused`."""
        values = _padded(logits[:, : self._num_token_ids])
        for row, state in zip(values[:, : self._num_token_ids], states, strict=True):
            state.apply(row)
            if (mask := state.allow_mask(again=num_refused > len(refused))) is not None:
                mask_logits(row, mask)
            row[[*refused]] = -np.inf
        is_finite = np.isfinite(values.max(axis=1))  # a NaN counts as best
        values[~is_finite] = 0
        tokens: Int64 = values.argmax(axis=1)
        params = [state.params for state in states]
        scale(values, np.array([wanted.temperature for wanted in params], np.float32))
        seeds = np.array([seed_of_draw(wanted.seed, num_refused) for wanted in params], np.uint64)
        shares = uniforms(seeds, positions.astype(np.uint64))
        drawn = [row for row, wanted in enumerate(params) if not wanted.greedy]
        truncated = [row for row in drawn if is_truncated(params[row])]
        if truncated:
            of_rows = [params[row] for row in truncated]
            tokens[truncated] = draw_truncated(values[truncated], of_rows, shares[truncated])
        if whole := [row for row in drawn if row not in truncated]:
            tokens[whole] = draw(values[whole], shares[whole])
        tokens[~is_finite] = -1
        return tokens

    def _logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        values = _padded(logits)
        is_finite = np.isfinite(values.max(axis=1))
        values[~is_finite] = 0
        log_softmax(values)
        own = values[np.arange(len(values)), token_ids].tolist()
        values[:, self._num_token_ids :] = -np.inf  # padding is never reported
        top_ids, top = best_tokens(values, min(max(nums_top), self._num_token_ids))
        return [
            TokenLogprobs(token_id, own[row], top_ids[row, :k].tolist(), top[row, :k].tolist())
            if is_finite[row]
            else TokenLogprobs(token_id, float("-inf"), [], [])
            for row, (token_id, k) in enumerate(zip(token_ids, nums_top, strict=True))
        ]


def log_softmax(values: Float32) -> None:
    """Natural log-probabilities of each row [R, width], in place; each row's sum by itself."""
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))


def _parts(num_rows: int, width: int) -> list[slice]:
    """All rows, so many together that they stay in the CPU's cache."""
    at_once = max(1, _AT_ONCE // width)
    return [slice(start, start + at_once) for start in range(0, num_rows, at_once)]


def _padded(logits: Float32) -> Float32:
    """A copy [R, columns], with columns of -inf up to a multiple of SPAN."""
    return np.pad(logits, ((0, 0), (0, -logits.shape[1] % SPAN)), constant_values=-np.inf)
