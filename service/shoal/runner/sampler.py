"""Logits to tokens: one argmax for all greedy rows, more work only for rows that ask for it.

Torch-free, so that every backend shares it. A row's token depends on its own logits, parameters
and (seed, position) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.runner import logits as steps
from shoal.runner.draw import SPAN, best_tokens, draw, draw_truncated, is_truncated
from shoal.runner.inputs import Float32
from shoal.runner.rng import uniforms

_MASK_64 = (1 << 64) - 1
_AT_ONCE = 1 << 16
"""Numbers handled at once: they stay in the CPU's cache, whatever the batch and vocabulary."""


@dataclass(slots=True)
class SampleRow:
    """One row's wishes."""

    params: SamplingParams
    position: int
    """Of the token to be sampled, in its sequence."""
    banned: tuple[int, ...] = ()
    counts: NDArray[np.int32] | None = None
    """[2, vocab] tokens in prompt and output; present when there are penalties."""

    @property
    def is_plain(self) -> bool:
        """Are the logits used as they are?"""
        return not (self.banned or self.params.logit_bias or self.counts is not None)


class Sampler:
    """Holds nothing but working memory, so that no step waits for fresh pages of it."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        width = -(-vocab_size // SPAN) * SPAN
        self._num_lines = max(1, _AT_ONCE // width)
        self._values = np.full((self._num_lines, width), -np.inf, np.float32)
        self._scratch = np.empty_like(self._values)

    def sample(self, logits: Float32, rows: Sequence[SampleRow]) -> list[int | None]:
        """One token per row of logits [R, vocab]; None for a row without a finite best logit,
        also when everything is banned. `logits` is not changed."""
        best = logits.argmax(axis=1)
        finite = np.isfinite(logits[np.arange(len(rows)), best])  # a NaN counts as best
        tokens: list[int | None] = best.tolist()
        adjusted: list[int] = []
        drawn: list[int] = []
        truncated: list[int] = []
        for index, (row, is_finite) in enumerate(zip(rows, finite.tolist(), strict=True)):
            if not is_finite:
                tokens[index] = None
            elif not row.params.greedy:
                (truncated if is_truncated(row.params) else drawn).append(index)
            elif not row.is_plain:
                adjusted.append(index)
        for indices, pick in (
            (adjusted, self._pick_best),
            (drawn, self._pick_drawn),
            (truncated, self._pick_truncated),
        ):
            for start in range(0, len(indices), self._num_lines):
                part = indices[start : start + self._num_lines]
                wishes = [rows[index] for index in part]
                usable = self._fill(logits, part, wishes)
                chosen = pick(self._values[: len(part)], wishes).tolist()
                for index, token_id, is_usable in zip(part, chosen, usable, strict=True):
                    tokens[index] = token_id if is_usable else None
        return tokens

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_best: Sequence[int]
    ) -> list[TokenLogprobs]:
        """For each line of logits [n, vocab], as the model gave them: the log-probability of its
        token and of its `nums_best` best, ties by lowest id. A line without a finite best has
        -inf and no best."""
        found: list[TokenLogprobs] = []
        for start in range(0, len(token_ids), self._num_lines):
            part = slice(start, start + self._num_lines)
            found += self._logprobs(logits[part], token_ids[part], nums_best[part])
        return found

    def _fill(self, logits: Float32, indices: list[int], wishes: list[SampleRow]) -> list[bool]:
        """Copies rows to the working memory, with bias, bans and penalties; says which of them
        still have a token to pick."""
        usable = [True] * len(indices)
        for line, (index, row) in enumerate(zip(indices, wishes, strict=True)):
            values = self._values[line, : self._vocab_size]
            values[:] = logits[index]
            if not row.is_plain:
                adjust(values, row)
                if not np.isfinite(values.max()):
                    usable[line] = False
                    values[:] = 0
        self._values[: len(indices), self._vocab_size :] = -np.inf  # the padding
        return usable

    def _pick_best(self, values: Float32, rows: list[SampleRow]) -> NDArray[np.int64]:
        best: NDArray[np.int64] = values.argmax(axis=1)
        return best

    def _pick_drawn(self, values: Float32, rows: list[SampleRow]) -> NDArray[np.int64]:
        steps.scale(values, _temperatures(rows))
        return draw(values, _uniforms(rows))

    def _pick_truncated(self, values: Float32, rows: list[SampleRow]) -> NDArray[np.int64]:
        steps.scale(values, _temperatures(rows))
        wishes = [row.params for row in rows]
        return draw_truncated(values, wishes, _uniforms(rows), self._scratch[: len(rows)])

    def _logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_best: Sequence[int]
    ) -> list[TokenLogprobs]:
        num_lines = len(token_ids)
        values = self._values[:num_lines]
        values[:, : self._vocab_size] = logits
        values[:, self._vocab_size :] = -np.inf
        finite = np.isfinite(values.max(axis=1))
        values[~finite] = 0
        log_softmax(values, self._scratch[:num_lines])
        own = values[np.arange(num_lines), token_ids].tolist()
        best_ids: list[list[int]] = [[]] * num_lines
        best: list[list[float]] = [[]] * num_lines
        if (k := min(max(nums_best), self._vocab_size)) > 0:
            found_ids, found = best_tokens(values, k, self._scratch[:num_lines])
            best_ids, best = found_ids.tolist(), found.tolist()
        return [
            TokenLogprobs(token_id, own[line], best_ids[line][:count], best[line][:count])
            if finite[line]
            else TokenLogprobs(token_id, float("-inf"), [], [])
            for line, (token_id, count) in enumerate(zip(token_ids, nums_best, strict=True))
        ]


def log_softmax(values: Float32, scratch: Float32) -> None:
    """Natural log-probabilities of each row [R, width], in place; each row's sum by itself."""
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values, out=scratch).sum(axis=1, keepdims=True))


def adjust(logits: Float32, row: SampleRow) -> None:
    """Bias, bans and penalties, in place on the logits [vocab] of one row."""
    steps.add_bias(logits, row.params.logit_bias)
    if row.banned:
        logits[list(row.banned)] = -np.inf
    if row.counts is not None:
        steps.add_penalties(logits, row.counts, row.params)


def _temperatures(rows: list[SampleRow]) -> Float32:
    return np.array([row.params.temperature for row in rows], np.float32)


def _uniforms(rows: list[SampleRow]) -> NDArray[np.float64]:
    return uniforms(
        np.array([row.params.seed & _MASK_64 for row in rows], np.uint64),
        np.array([row.position for row in rows], np.uint64),
    )
