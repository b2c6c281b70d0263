"""Rows to packs: many rows in one sequence of tokens without padding, each as if it were alone.

Rows that begin with the same tokens, none of them learned (a system prompt, mostly), share them:
the beginning stands once in the pack, and all of these rows look back at it. Loss and gradient are
those of the rows one by one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.train.finetune.rows import EncodedRow

MIN_PREFIX = 8
"""Shorter beginnings are not worth an own place."""
_MAX_GROUP = 512


class Span(NamedTuple):
    """Tokens of a pack that follow each other."""

    start: int
    length: int


class Group(NamedTuple):
    """Rows with one beginning, which may be empty. A row's span is what comes behind it."""

    prefix: Span
    rows: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """T tokens of some rows; a token sees those before it in its own row."""

    token_ids: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T] within the row
    targets: NDArray[np.int32]  # [T] the next token where it is learned, else -1
    groups: tuple[Group, ...]
    num_row_tokens: int
    """Of all rows, shared beginnings counted in each."""

    @property
    def num_rows(self) -> int:
        return sum(len(group.rows) for group in self.groups)

    @property
    def num_targets(self) -> int:
        return int((self.targets >= 0).sum())


def make_packs(rows: Sequence[EncodedRow], pack_tokens: int) -> list[Pack]:
    """Packs of at most `pack_tokens` tokens that hold every row once, as few as may be and about
    equally full; a longer row has a pack of its own. A row's first token is never learned: nothing
    comes before it. The same rows give the same packs."""
    if pack_tokens < 1:
        raise ValueError(f"a pack of {pack_tokens} tokens is none")
    shared = [_Shared(row, length, key) for key, row, length in _with_prefixes(rows)]
    if not shared:
        return []
    total = sum(each.own for each in shared)
    total += sum({each.prefix: each.length for each in shared}.values())
    fewest = min(len(shared), -(-total // pack_tokens))
    for num_packs in range(fewest, len(shared) + 1):
        bins = _fill(shared, num_packs)
        if all(each.size <= pack_tokens or len(each.rows) == 1 for each in bins):
            break
    return [_pack(each.rows) for each in bins if each.rows]


class _Shared(NamedTuple):
    """A row, so many tokens of which are the beginning `prefix`."""

    row: EncodedRow
    length: int
    prefix: int

    @property
    def own(self) -> int:
        return len(self.row.ids) - self.length


class _Bin:
    """Rows of one pack, and how many tokens they take."""

    def __init__(self) -> None:
        self.rows: list[_Shared] = []
        self.size = 0
        self._prefixes: set[int] = set()

    def size_with(self, row: _Shared) -> int:
        return self.size + row.own + (0 if row.prefix in self._prefixes else row.length)

    def add(self, row: _Shared) -> None:
        self.size = self.size_with(row)
        self._prefixes.add(row.prefix)
        self.rows.append(row)


def _fill(rows: Sequence[_Shared], num_bins: int) -> list[_Bin]:
    """The longest row first, each to where the least is then."""
    bins = [_Bin() for _ in range(num_bins)]
    for row in sorted(rows, key=lambda row: -row.own):
        min(bins, key=lambda each: each.size_with(row)).add(row)
    return bins


def _with_prefixes(rows: Sequence[EncodedRow]) -> Iterator[tuple[int, EncodedRow, int]]:
    """(number of the beginning, row, tokens of it that are the beginning). The rows, in order of
    their tokens, are cut into stretches so that as many tokens as possible are shared."""
    ordered = sorted(rows, key=lambda row: row.ids.tolist())
    limits = [_sharable(row) for row in ordered]
    common = [_common(*pair) for pair in pairwise(ordered)]
    saved = [0]  # by the first n rows
    starts: list[tuple[int, int]] = []  # of the stretch that ends with row n, and what it shares
    for end, limit in enumerate(limits):
        best, start_of_best, length_of_best = saved[end], end, 0
        length = limit
        for start in range(end - 1, max(-1, end - _MAX_GROUP), -1):
            length = min(length, common[start], limits[start])
            if length < MIN_PREFIX:
                break
            gain = saved[start] + (end - start) * length
            if gain > best:
                best, start_of_best, length_of_best = gain, start, length
        saved.append(best)
        starts.append((start_of_best, length_of_best))
    end = len(ordered) - 1
    while end >= 0:
        start, length = starts[end]
        for row in ordered[start : end + 1]:
            yield start, row, length
        end = start - 1


def _sharable(row: EncodedRow) -> int:
    """Tokens at its start that neither are learned nor predict one that is."""
    learned = np.flatnonzero(row.in_loss[1:])
    return int(learned[0]) if len(learned) else len(row.ids) - 1


def _common(one: EncodedRow, other: EncodedRow) -> int:
    size = min(len(one.ids), len(other.ids))
    different = np.flatnonzero(one.ids[:size] != other.ids[:size])
    return int(different[0]) if len(different) else size


def _pack(rows: Sequence[_Shared]) -> Pack:
    ids: list[NDArray[np.int32]] = []
    targets: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int32]] = []
    groups: list[Group] = []
    size = 0

    def add(row: EncodedRow, start: int, end: int) -> Span:
        nonlocal size
        following = np.where(row.in_loss[1:], row.ids[1:], -1)
        ids.append(row.ids[start:end])
        targets.append(np.append(following, -1)[start:end].astype(np.int32))
        positions.append(np.arange(start, end, dtype=np.int32))
        size += end - start
        return Span(size - (end - start), end - start)

    for prefix in sorted({row.prefix for row in rows}):
        members = [row for row in rows if row.prefix == prefix]
        length = members[0].length if len(members) > 1 else 0
        span = add(members[0].row, 0, length)
        spans = tuple(add(row, length, len(row.ids)) for row, _, _ in members)
        groups.append(Group(span, spans))
    return Pack(
        np.concatenate(ids).astype(np.int32),
        np.concatenate(positions),
        np.concatenate(targets),
        tuple(groups),
        sum(len(row.row.ids) for row in rows),
    )
