"""The baseline a language model must beat: interpolated modified Kneser-Ney over token ids.

Chen and Goodman 1998: orders 1 to 5, three discounts per order from its counts of counts. It sees
the last four tokens only. Needs numpy alone.
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
    """Everything about the n-grams of one length n. An n-gram's id is its index in `keys`."""

    keys: Ids  # [n-grams] sorted: id of the first n-1 tokens * vocab_size + last token
    discounted: Probs  # [n-grams] count minus its discount
    totals: Probs  # [contexts] sum of the counts of what follows
    left_over: Probs  # [contexts] sum of those discounts, given to the order below


class NgramModel:
    """P(token | up to order - 1 tokens before)."""

    def __init__(self, texts: Sequence[Sequence[int]], vocab_size: int, order: int = ORDER) -> None:
        """`texts`: token ids, each with its end token. Each is preceded by order - 1 times id 0."""
        self.vocab_size, self.order = vocab_size, order
        stream, is_text = _stream(texts, order)
        ids, keys = [stream], [np.arange(vocab_size)]
        for _ in range(1, order):
            # the roll is wrong only for the first tokens, which are padding and never counted
            longer = np.roll(ids[-1], 1) * vocab_size + stream
            keys_of_n, ids_of_n = np.unique(longer, return_inverse=True)
            ids.append(ids_of_n)
            keys.append(keys_of_n)
        self._orders: list[_Order] = []
        for n in range(order):
            if n == order - 1:
                counts = np.bincount(ids[n][is_text], minlength=len(keys[n]))
            else:  # the number of different tokens before it (Kneser and Ney 1995)
                pairs = np.unique(np.stack((ids[n + 1], ids[n]))[:, is_text], axis=1)
                counts = np.bincount(pairs[1], minlength=len(keys[n]))
            num_contexts = 1 if n == 0 else len(keys[n - 1])
            context = np.zeros(vocab_size, np.int64) if n == 0 else keys[n] // vocab_size
            self._orders.append(_order(keys[n], counts, context, num_contexts))

    def probabilities(self, text: Sequence[int]) -> Probs:
        """P of every token of `text` after the ones before it: [len(text)]."""
        stream, is_text = _stream([text], self.order)
        return self._chain(stream)[is_text]

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
        context = np.zeros(len(stream), np.int64)  # id of the tokens before, -1 where unseen
        for level in self._orders:
            key = context * self.vocab_size + stream
            index = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            index = np.where((context >= 0) & (level.keys[index] == key), index, -1)
            total = np.where(context >= 0, level.totals[context], 0.0)
            own = np.where(index >= 0, level.discounted[index], 0.0)
            is_seen = total > 0
            below = np.where(is_seen, level.left_over[context], 1.0) * probs
            probs = np.where(is_seen, (own + below) / np.where(is_seen, total, 1.0), probs)
            context = np.roll(index, 1)
        return probs


def _stream(texts: Sequence[Sequence[int]], order: int) -> tuple[Ids, NDArray[np.bool_]]:
    """All texts one after the other, each after its padding; and which tokens are not padding."""
    padding = np.zeros(order - 1, np.int64)
    parts = [part for text in texts for part in (padding, np.asarray(text, np.int64))]
    is_text = [np.full(len(part), index % 2 == 1) for index, part in enumerate(parts)]
    return np.concatenate(parts), np.concatenate(is_text)


def _order(keys: Ids, counts: Ids, context: Ids, num_contexts: int) -> _Order:
    def per_context(values: NDArray[np.generic]) -> Probs:
        return np.bincount(context, weights=values, minlength=num_contexts).astype(np.float64)

    discount = _discounts(counts)[np.minimum(counts, 3)]
    return _Order(keys, counts - discount, per_context(counts), per_context(discount))


def _discounts(counts: Ids) -> Probs:
    """[0, D1, D2, D3+]; the closed form needs n-grams seen one to four times, else all are 0.5."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return np.array([0.0, *(min(max(value, 0.0), times) for times, value in enumerate(raw, 1))])
