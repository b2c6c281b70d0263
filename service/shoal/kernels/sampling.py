"""Logits to tokens and log-probabilities in the native library, row by row and without torch.

Gives the token that `runner/sampler.py`, its twin of numpy, gives for the same logits, parameters,
seed and position. Knows neither penalties nor bans: who wants them changes a copy of the logits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.native import Float32, Int32, KernelSet, available

if available():
    from shoal.kernels import _native

Float64 = NDArray[np.float64]
UInt64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class RowParams:
    """Parallel arrays [R], one place a row; the arrays may be kept and patched between steps."""

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


class NativeSampler:
    """Holds working memory only: one caller at a time. Lets go of the interpreter lock."""

    def __init__(self, vocab_size: int, *, kernel_set: KernelSet = "auto") -> None:
        """Raises RuntimeError when the library is not built (`native.available()` says so)."""
        if not available():
            raise RuntimeError("the native kernels are not built; available() says so beforehand")
        self._sampler = _native.make_sampler(vocab_size, kernel_set)

    def sample(self, logits: Float32, params: RowParams) -> Int32:
        """A token id for each row of logits [R, vocab], which stay as they are; -1 for a row
        without a finite best logit. Raises ValueError for shapes that do not fit.

        top_k, top_p (Holtzman et al., 2020), typical_p (Meister et al., 2022) and min_p (Nguyen et
        al., 2024) cut in this order.
        """
        tokens = np.empty(len(logits), np.int32)
        self._sampler.sample(
            logits, params.temperature, params.top_k, params.top_p, params.min_p,
            params.typical_p, params.seed, params.position, tokens,
        )  # fmt: skip
        return tokens

    def logprobs(
        self, logits: Float32, token_ids: Int32, nums_best: Int32
    ) -> tuple[Float32, Int32, Float32]:
        """Natural log-probabilities of lines of logits [n, vocab], as the model gave them.

        (own [n], best_ids [n, k], best [n, k]): of each line's token and of its `nums_best` [n]
        best, best first, of equals the lower id; k is the largest of `nums_best`, at most vocab.
        Unasked places hold -1 and -inf; so does a line without a finite best logit.
        """
        k = min(int(nums_best.max(initial=0)), logits.shape[1])
        own = np.empty(len(token_ids), np.float32)
        best_ids = np.full((len(token_ids), k), -1, np.int32)
        best = np.full((len(token_ids), k), -np.inf, np.float32)
        self._sampler.logprobs(logits, token_ids, nums_best, own, best_ids, best)
        return own, best_ids, best
