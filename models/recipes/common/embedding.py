"""Word vectors from co-occurrence, as the initial embedding.

Positive pointwise mutual information of tokens within a window, factorized by a truncated SVD
(Levy and Goldberg 2014). A small labelled corpus then starts with vectors also for words that it
holds seldom or never.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]


def cooccurrence_embedding(
    texts: list[Ids], vocab_size: int, hidden_size: int, *, window: int = 4, std: float = 0.02
) -> Tensor:
    """[vocab_size, hidden_size] of this overall deviation; unseen tokens get random rows.

    `texts`: token ids. Needs about 12 bytes times vocab_size squared of memory.
    """
    counts = _counts(texts, vocab_size, window)
    generator = torch.Generator().manual_seed(0)
    left, singular_values = _truncated_svd(_ppmi(counts), hidden_size, generator)
    vectors = left * singular_values.sqrt()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)
    seen = counts.sum(dim=1) > 0
    noise = torch.randn(vocab_size, hidden_size, generator=generator) * hidden_size**-0.5
    embedding: Tensor = torch.where(seen[:, None], vectors, noise) * std * hidden_size**0.5
    return embedding


def _counts(texts: list[Ids], vocab_size: int, window: int) -> Tensor:
    # texts are joined with `window` separators between them, so that no pair spans two texts
    gap = np.full(window, vocab_size, dtype=np.int64)
    joined = np.concatenate([part for text in texts for part in (text.astype(np.int64), gap)])
    total = np.zeros((vocab_size + 1) ** 2, dtype=np.float32)
    for distance in range(1, window + 1):
        pairs = joined[:-distance] * (vocab_size + 1) + joined[distance:]
        total += np.bincount(pairs, minlength=total.size).astype(np.float32) / distance
    counts = torch.from_numpy(total).view(vocab_size + 1, vocab_size + 1)
    counts = counts[:vocab_size, :vocab_size]
    return counts + counts.T


def _ppmi(counts: Tensor) -> Tensor:
    rows = counts.sum(dim=1)
    contexts = rows**0.75  # damps rare contexts, as in word2vec
    expected = torch.outer(rows, contexts / contexts.sum())
    return (counts / expected.clamp_min(1e-9)).clamp_min(1e-9).log().clamp_min_(0.0)


def _truncated_svd(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # randomized range finder (Halko et al. 2011); the matrix is symmetric
    probe = torch.randn(matrix.shape[0], rank + 32, generator=generator)
    for _ in range(3):
        probe = torch.linalg.qr(matrix @ probe).Q
    small = probe.T @ matrix  # [rank + 32, vocab_size]
    left, singular_values, _ = torch.linalg.svd(small, full_matrices=False)
    return (probe @ left)[:, :rank], singular_values[:rank]
