"""A warm start for the embedding: co-occurrence statistics of background text.

Positive pointwise mutual information of tokens within a window, factorized by a truncated SVD
(Levy and Goldberg 2014). It gives a small labelled corpus words that it never or seldom holds.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]


def cooccurrence_embedding(
    texts: list[Ids], vocab_size: int, size: int, *, window: int = 4, std: float = 0.02
) -> Tensor:
    """(vocab_size, size) with the given deviation overall; rows of unseen tokens are small noise.

    Needs about 12 bytes times vocab_size squared of memory.
    """
    counts = _counts(texts, vocab_size, window)
    generator = torch.Generator().manual_seed(0)
    left, strengths = _truncated_svd(_ppmi(counts), size, generator)
    vectors = left * strengths.sqrt()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)
    seen = counts.sum(dim=1) > 0
    noise = torch.randn(vocab_size, size, generator=generator) * size**-0.5
    found: Tensor = torch.where(seen[:, None], vectors, noise) * std * size**0.5
    return found


def _counts(texts: list[Ids], vocab_size: int, window: int) -> Tensor:
    # texts are joined with `window` separators between them, so no pair crosses a border
    gap = np.full(window, vocab_size, dtype=np.int64)
    joined = np.concatenate([part for text in texts for part in (text.astype(np.int64), gap)])
    total = np.zeros((vocab_size + 1) ** 2, dtype=np.float32)
    for distance in range(1, window + 1):
        pairs = joined[:-distance] * (vocab_size + 1) + joined[distance:]
        found = np.bincount(pairs, minlength=total.size)
        total += found.astype(np.float32) / distance
    counts = torch.from_numpy(total).view(vocab_size + 1, vocab_size + 1)
    counts = counts[:vocab_size, :vocab_size]
    return counts + counts.T


def _ppmi(counts: Tensor) -> Tensor:
    rows = counts.sum(dim=1)
    contexts = rows**0.75  # damps rare contexts, as in word2vec
    expected = torch.outer(rows, contexts / contexts.sum())
    return (counts / expected.clamp_min(1e-9)).clamp_min(1e-9).log().clamp_min_(0.0)


def _truncated_svd(matrix: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # randomized range finder (Halko et al. 2011); the matrix is symmetric
    probe = torch.randn(matrix.shape[0], size + 32, generator=generator)
    for _ in range(3):
        probe = torch.linalg.qr(matrix @ probe).Q
    small = probe.T @ matrix  # (size + 32, vocabulary)
    left, strengths, _ = torch.linalg.svd(small, full_matrices=False)
    return (probe @ left)[:, :size], strengths[:size]
