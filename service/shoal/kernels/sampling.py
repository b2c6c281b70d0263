"""Logits to tokens and log-probabilities in the native library, row by row and without torch.

Gives the token that the numpy sampler gives for the same logits, parameters, seed and position.
Knows neither penalties nor bans: a caller that has some changes a copy of the logits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.native import Float32, Int32, KernelSet, available

if available():
    from shoal.kernels import _native

Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class RowParams:
    """Parallel arrays [R], one element per row; the arrays may be kept and changed between
    steps."""

    temperature: Float32
    """0 picks the best token, the lowest id of equals."""
    top_k: Int32
    """0 = off"""
    top_p: Float64
    """1 = off"""
    min_p: Float64
    """0 = off"""
    typical_p: Float64
    """1 = off"""
    seed: UInt64
    position: UInt64
    """Of the token to be sampled, in its sequence."""

    def of_rows(self, rows: NDArray[np.int64]) -> "RowParams":
        """A copy for some of the rows."""
        return RowParams(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows],
            self.typical_p[rows], self.seed[rows], self.position[rows],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class VocabularyMasks:
    """The tokens that rows may sample. Rows may share a mask."""

    words: UInt32
    """[masks, ceil(num_token_ids / 32)]: bit i % 32 of word i // 32 allows token i."""
    mask_of_row: Int32
    """[R] which mask; -1 = all tokens allowed."""


@dataclass(frozen=True, slots=True)
class PlainTokens:
    """A token that is not plain is drawn again, of all that were not drawn yet."""

    num_chars: UInt8
    """[tables, num_token_ids] more than 0 for plain tokens."""
    table_of_row: Int32
    """[R] which table; -1 = a row without others."""
    others: Int32
    """[R, N] written for a row whose token is not plain, and that has no check to refuse it: what
    comes in its place, up to a plain one; the token stays."""


@dataclass(frozen=True, slots=True)
class Checks:
    """A token that its row's mask refuses is drawn again, at last of those that it allows."""

    masks: VocabularyMasks
    plain: PlainTokens
    """Whose rows have others before their masks count."""
    seeds: UInt64
    """[R, 1 + N] of the draws after the first; rows without others use the first one."""


class RowArrays:
    """How rows are sampled: the arrays are read at each call, and may be changed in between."""

    def __init__(
        self,
        params: RowParams,
        masks: VocabularyMasks | None = None,
        checks: Checks | None = None,
    ) -> None:
        """`masks`: of the first draw. Raises ValueError for shapes that do not fit."""
        self.params = params
        checked, plain = (checks.masks, checks.plain) if checks else (None, None)
        self.native = _native.RowArrays(
            params.temperature, params.top_k, params.top_p, params.min_p, params.typical_p,
            params.seed, params.position,
            masks.words if masks else None, masks.mask_of_row if masks else None,
            checked.words if checked else None, checked.mask_of_row if checked else None,
            plain.num_chars if plain else None, plain.table_of_row if plain else None,
            plain.others if plain else None, checks.seeds if checks else None,
        )  # fmt: skip


class NativeSampler:
    """Holds working memory only: one caller at a time. Releases the GIL."""

    def __init__(
        self,
        vocab_size: int,
        *,
        num_token_ids: int | None = None,
        kernel_set: KernelSet = "auto",
    ) -> None:
        """`vocab_size`: columns of the logits. `num_token_ids`: the first ones are tokens, the
        others padding of the vocabulary, which is never sampled; None = all are tokens. Raises
        RuntimeError when the library is not built (`native.available()` says so)."""
        if not available():
            raise RuntimeError("the native kernels are not built; available() says so beforehand")
        self._num_token_ids = vocab_size if num_token_ids is None else num_token_ids
        self._sampler = _native.make_sampler(vocab_size, self._num_token_ids, kernel_set)

    def sample(
        self,
        logits: Float32,
        arrays: RowArrays,
        *,
        first: Int32 | None = None,
        rows: Int32 | None = None,
        tokens: Int32 | None = None,
    ) -> Int32:
        """A token id for each row of logits [R, vocab_size], which stay as they are; -1 for a row
        without a finite best logit, also when its mask allows none. `first` [R]: the first draws
        where they are known, as of rows that take the best token; -1 elsewhere. `rows`: for these
        only, the others of `tokens` [R] stay; None = all. `tokens`: written and returned, may be
        `first`; None makes some. Raises ValueError for shapes that do not fit.

        top_k, top_p (Holtzman et al., 2020), typical_p (Meister et al., 2022) and min_p (Nguyen et
        al., 2024) cut in this order, of the allowed tokens.
        """
        if tokens is None:
            tokens = np.full(len(logits), -1, np.int32)
        self._sampler.sample(logits, arrays.native, first, rows, tokens)
        return tokens

    def logprobs(
        self, logits: Float32, token_ids: Int32, nums_top: Int32
    ) -> tuple[Float32, Int32, Float32]:
        """Natural log-probabilities of rows of logits [n, vocab_size], as the model gave them,
        normalised over all columns.

        (own [n], top_ids [n, k], top [n, k]): of each row's token and of its `nums_top` [n]
        best tokens, best first, of equals the lower id; k is the largest of `nums_top`, at most
        num_token_ids. What is not requested holds -1 and -inf; so does a row without a finite best
        logit.
        """
        k = min(int(nums_top.max(initial=0)), self._num_token_ids)
        own = np.empty(len(token_ids), np.float32)
        top_ids = np.full((len(token_ids), k), -1, np.int32)
        top = np.full((len(token_ids), k), -np.inf, np.float32)
        self._sampler.logprobs(logits, token_ids, nums_top, own, top_ids, top)
        return own, top_ids, top
