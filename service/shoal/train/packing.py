"""Documents to token ids to batches: bucketed by length, repeatable from (seed, epoch).

Every row is one document, or a part of a long one, and begins at position 0 as it does when
served, so no row sees another document. Rows of similar length share a batch: little padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shoal.train.pieces import Document, Variant

Ids = NDArray[np.int32]
LossMask = NDArray[np.bool_]
IGNORED = -1  # target of padding


class Row(NamedTuple):
    """Token ids [length], and which of them the model learns to write [length]."""

    ids: Ids
    loss_mask: LossMask


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document's variants, each cut into rows of at most context + 1 tokens."""

    variants: list[list[Row]]
    repeat: float


class Batch(NamedTuple):
    """Rows padded to one length; all [rows, length]."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]  # IGNORED where padded
    loss_mask: LossMask  # of the targets
    num_tokens: int  # without padding


def tokenize_documents(
    documents: list[Document], tokenizer: Tokenizer, context: int
) -> list[TokenizedDocument]:
    """Encode every variant once."""
    cache: dict[str, list[int]] = {}  # equal segments of any documents are encoded once
    return [
        TokenizedDocument(
            [_cut(_encode(variant, tokenizer, cache), context) for variant in document.variants],
            document.repeat,
        )
        for document in documents
    ]


def epoch_batches(
    documents: list[TokenizedDocument], batch_tokens: int, seed: int, epoch: int
) -> list[list[Row]]:
    """The batches of one epoch, each a list of rows. The same seed and epoch give the same."""
    rng = np.random.default_rng([seed, epoch])
    rows: list[Row] = []
    for document in documents:
        times = math.floor(document.repeat + rng.random())
        for choice in rng.integers(len(document.variants), size=times):
            rows += document.variants[choice]
    noise = rng.random(len(rows)) * 8  # rows within 8 tokens of each other mix
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids) + noise[index])
    batches = list(_fill((rows[index] for index in order), batch_tokens))
    return [batches[index] for index in rng.permutation(len(batches))]


def pad(rows: list[Row]) -> Batch:
    """Put rows into one rectangle; the target of a position is the token after it."""
    length = max(len(row.ids) for row in rows) - 1
    inputs = np.zeros((len(rows), length), dtype=np.int64)
    targets = np.full((len(rows), length), IGNORED, dtype=np.int64)
    loss_mask = np.zeros((len(rows), length), dtype=np.bool_)
    for index, row in enumerate(rows):
        size = len(row.ids) - 1
        inputs[index, :size] = row.ids[:-1]
        targets[index, :size] = row.ids[1:]
        loss_mask[index, :size] = row.loss_mask[1:]
    return Batch(inputs, targets, loss_mask, sum(len(row.ids) - 1 for row in rows))


def _encode(variant: Variant, tokenizer: Tokenizer, cache: dict[str, list[int]]) -> Row:
    ids: list[int] = []
    loss_mask: list[bool] = []
    for segment in variant:
        if (encoded := cache.get(segment.text)) is None:
            encoded = tokenizer.encode(segment.text, add_special_tokens=False).ids
            cache[segment.text] = encoded
        ids += encoded
        loss_mask += [segment.in_loss] * len(encoded)
    return Row(np.array(ids, dtype=np.int32), np.array(loss_mask, dtype=np.bool_))


def _cut(whole: Row, context: int) -> list[Row]:
    # neighbours share one token: the last target of a row is the first input of the next
    starts = range(0, max(1, len(whole.ids) - 1), context)
    return [
        Row(whole.ids[start : start + context + 1], whole.loss_mask[start : start + context + 1])
        for start in starts
    ]


def _fill(rows: Iterator[Row], batch_tokens: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:  # in ascending length: the newest row is the longest, up to the noise
        longest = max([len(row.ids), *(len(other.ids) for other in batch[-8:])])
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
