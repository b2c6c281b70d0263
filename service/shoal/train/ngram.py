"""The baseline a language model must beat: interpolated modified Kneser-Ney over token ids.

Chen and Goodman 1998, orders 1 to 5, three discounts an order from its counts of counts. Texts are
bags of n-grams: nothing is known beyond the last four tokens. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Probs = NDArray[np.float64]
ORDER = 5


class _Order(NamedTuple):
    """Everything about the n-grams of one length. An id is a place in the sorted `keys`."""

    keys: Ids  # id of the first n-1 tokens * vocabulary + last token
    discounted: Probs  # [n-grams] count less its discount
    totals: Probs  # [contexts] sum of the counts that follow
    left_over: Probs  # [contexts] mass of the discounts, for the order below


class NgramModel:
    """P(token | up to order - 1 tokens before)."""

    def __init__(self, texts: Sequence[Sequence[int]], vocab_size: int, order: int = ORDER) -> None:
        """`texts`: token ids, each with its end token. A text begins with order - 1 times id 0."""
        self.vocab_size, self.order = vocab_size, order
        stream, written = _stream(texts, order)
        ids, keys = [stream], [np.arange(vocab_size)]
        for _ in range(1, order):
            # tokens that stand too early for n tokens never count: they are the first padding
            longer = np.roll(ids[-1], 1) * vocab_size + stream
            found, place = np.unique(longer, return_inverse=True)
            ids.append(place)
            keys.append(found)
        self._orders: list[_Order] = []
        for n in range(order):
            if n == order - 1:
                counts = np.bincount(ids[n][written], minlength=len(keys[n]))
            else:  # how many different tokens stand before it (Kneser and Ney 1995)
                seen = np.unique(np.stack((ids[n + 1], ids[n]))[:, written], axis=1)
                counts = np.bincount(seen[1], minlength=len(keys[n]))
            num_contexts = 1 if n == 0 else len(keys[n - 1])
            context = np.zeros(vocab_size, np.int64) if n == 0 else keys[n] // vocab_size
            self._orders.append(_order(keys[n], counts, context, num_contexts))

    def probabilities(self, text: Sequence[int]) -> Probs:
        """P of every token of `text` after the ones before it: [len(text)]."""
        stream, written = _stream([text], self.order)
        return self._chain(stream)[written]

    def distribution(self, before: Sequence[int]) -> Probs:
        """P of every token of the vocabulary after `before`: [vocab_size]."""
        stream, _ = _stream([before], self.order)
        tail = stream[len(stream) - self.order + 1 :]
        rows = np.concatenate([np.append(tail, token) for token in range(self.vocab_size)])
        return self._chain(rows)[self.order - 1 :: self.order]

    def bits_per_byte(self, texts: Sequence[Sequence[int]], num_bytes: int) -> float:
        """Cost of all tokens of `texts`, end tokens included, over the bytes of their text."""
        bits = -math.fsum(float(np.log2(self.probabilities(text)).sum()) for text in texts)
        return bits / num_bytes

    def _chain(self, stream: Ids) -> Probs:
        """P of each token of a stream; only those with order - 1 tokens before are meaningful."""
        probs = np.full(len(stream), 1.0 / self.vocab_size)
        context = np.zeros(len(stream), np.int64)  # id of the tokens before, -1 for unknown ones
        for level in self._orders:
            wanted = context * self.vocab_size + stream
            place = np.minimum(np.searchsorted(level.keys, wanted), len(level.keys) - 1)
            place = np.where((context >= 0) & (level.keys[place] == wanted), place, -1)
            total = np.where(context >= 0, level.totals[context], 0.0)
            own = np.where(place >= 0, level.discounted[place], 0.0)
            known = total > 0
            below = np.where(known, level.left_over[context], 1.0) * probs
            probs = np.where(known, (own + below) / np.where(known, total, 1.0), probs)
            context = np.roll(place, 1)
        return probs


def _stream(texts: Sequence[Sequence[int]], order: int) -> tuple[Ids, NDArray[np.bool_]]:
    """All texts behind one another, each after its padding; and which tokens are not padding."""
    padding = np.zeros(order - 1, np.int64)
    parts = [part for text in texts for part in (padding, np.asarray(text, np.int64))]
    stream = np.concatenate(parts)
    written = np.concatenate(
        [np.full(len(part), place % 2 == 1) for place, part in enumerate(parts)]
    )
    return stream, written


def _order(keys: Ids, counts: Ids, context: Ids, num_contexts: int) -> _Order:
    def per_context(values: NDArray[np.generic]) -> Probs:
        return np.bincount(context, weights=values, minlength=num_contexts).astype(np.float64)

    discounts = _discounts(counts)
    lost = discounts[np.minimum(counts, 3)]
    return _Order(keys, counts - lost, per_context(counts), per_context(lost))


def _discounts(counts: Ids) -> Probs:
    """(0, D1, D2, D3+); the closed form needs n-grams seen one to four times, else halves."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return np.array([0.0, *(min(max(value, 0.0), times) for times, value in enumerate(raw, 1))])
