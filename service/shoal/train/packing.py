"""Documents to token ids to batches: bucketed by length, repeatable from (seed, epoch).

Every row is one document (or one piece of a long one) that begins at position 0, as it does when
served, so no row sees another document. Rows of like length share a batch: little padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shoal.train.corpora import Document
from shoal.train.pieces import Variant

Ids = NDArray[np.int32]
Learned = NDArray[np.bool_]
IGNORED = -1  # target of padding


class TokenizedVariant(NamedTuple):
    """token ids (length,), and which of them the model must learn to write (length,)."""

    ids: Ids
    learned: Learned


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document's variants as rows of at most context + 1 tokens each."""

    variants: list[list[TokenizedVariant]]
    repeat: float


class Batch(NamedTuple):
    """inputs, targets (rows, length), IGNORED where padded; learned marks targets to write."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    learned: Learned
    num_tokens: int  # without padding


def tokenize_documents(
    documents: list[Document], tokenizer: Tokenizer, context: int
) -> list[TokenizedDocument]:
    """Encode every variant once."""
    known: dict[str, list[int]] = {}  # the same task, answer or text is encoded once
    found = []
    for document in documents:
        variants = [
            _rows(_encode(variant, tokenizer, known), context) for variant in document.variants
        ]
        found.append(TokenizedDocument(variants, document.repeat))
    return found


def epoch_batches(
    documents: list[TokenizedDocument], batch_tokens: int, seed: int, epoch: int
) -> list[list[TokenizedVariant]]:
    """The batches of one epoch, each a list of rows. The same seed and epoch give the same."""
    random = np.random.default_rng([seed, epoch])
    rows: list[TokenizedVariant] = []
    for document in documents:
        times = math.floor(document.repeat + random.random())
        for choice in random.integers(len(document.variants), size=times):
            rows += document.variants[choice]
    noise = random.random(len(rows)) * 8  # rows within 8 tokens of each other mix
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids) + noise[place])
    batches = list(_fill((rows[place] for place in order), batch_tokens))
    return [batches[place] for place in random.permutation(len(batches))]


def pad(rows: list[TokenizedVariant]) -> Batch:
    """Put rows into one rectangle; the target of a position is the token after it."""
    length = max(len(row.ids) for row in rows) - 1
    inputs = np.zeros((len(rows), length), dtype=np.int64)
    targets = np.full((len(rows), length), IGNORED, dtype=np.int64)
    learned = np.zeros((len(rows), length), dtype=np.bool_)
    for place, row in enumerate(rows):
        size = len(row.ids) - 1
        inputs[place, :size] = row.ids[:-1]
        targets[place, :size] = row.ids[1:]
        learned[place, :size] = row.learned[1:]
    return Batch(inputs, targets, learned, sum(len(row.ids) - 1 for row in rows))


def _encode(
    variant: Variant, tokenizer: Tokenizer, known: dict[str, list[int]]
) -> TokenizedVariant:
    ids: list[int] = []
    learned: list[bool] = []
    for piece in variant:
        if (encoded := known.get(piece.text)) is None:
            encoded = known[piece.text] = tokenizer.encode(piece.text, add_special_tokens=False).ids
        ids += encoded
        learned += [piece.learned] * len(encoded)
    return TokenizedVariant(np.array(ids, dtype=np.int32), np.array(learned, dtype=np.bool_))


def _rows(variant: TokenizedVariant, context: int) -> list[TokenizedVariant]:
    # neighbours share one token: the last target of a row is the first input of the next
    starts = range(0, max(1, len(variant.ids) - 1), context)
    return [
        TokenizedVariant(
            variant.ids[start : start + context + 1], variant.learned[start : start + context + 1]
        )
        for start in starts
    ]


def _fill(rows: Iterator[TokenizedVariant], batch_tokens: int) -> Iterator[list[TokenizedVariant]]:
    batch: list[TokenizedVariant] = []
    for row in rows:  # ascending length: the newest row is the longest, up to the noise
        longest = max([len(row.ids), *(len(other.ids) for other in batch[-8:])])
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
