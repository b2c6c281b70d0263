"""The masks of rows that sample together, as the native sampler reads them: each is there once."""

from collections.abc import Callable

import numpy as np

from shoal.kernels.sampling import VocabularyMasks
from shoal.sampling.arrays import Int32, UInt32

FIRST, CHECKED = range(2)
"""Columns: masks of the first draw; masks that may refuse it."""
_MORE = 64
"""Masks that are kept for no row."""


class MaskTable:
    def __init__(self, num_token_ids: int, before_drop: Callable[[], None]) -> None:
        """`before_drop`: is called before masks change their places."""
        self._before_drop = before_drop
        self._masks: list[UInt32] = []
        self._places: dict[int, int] = {}  # by identity, but for those of one row
        self._own: dict[int, int] = {}  # [row] the place of masks that it alone has
        self._words: UInt32 = np.empty((0, -(-num_token_ids // 32)), np.uint32)
        self.of_row: Int32 = np.empty((2, 0), np.int32)
        """[columns, R] the place of a row's mask; -1: it has none."""

    def begin(self, before: list[int]) -> None:
        """Of other rows: the ones that were `before` [R], with their masks; -1 for new ones."""
        of_row = np.pad(self.of_row, ((0, 0), (0, 1)), constant_values=-1)  # the last one for -1
        self.of_row = of_row.take(before, axis=1)
        self._own = {row: self._own[old] for row, old in enumerate(before) if old in self._own}
        if len(self._words) < (most := self.of_row.size + _MORE):
            words = np.empty((most, self._words.shape[1]), np.uint32)
            words[: len(self._words)] = self._words
            self._words = words

    def column(self, column: int) -> VocabularyMasks:
        """Until other rows begin."""
        return VocabularyMasks(self._words, self.of_row[column])

    def set(self, column: int, row: int, mask: UInt32 | None) -> None:
        """`mask` [words]: is not changed any more."""
        if mask is not None and self.is_full and id(mask) not in self._places:
            self._drop_others()
        self.of_row[column, row] = -1 if mask is None else self.place_of(mask)

    def set_own(self, column: int, row: int, mask: UInt32 | None) -> None:
        """As `set`, for one that changes from step to step: the next one takes its place."""
        if mask is None:
            self.of_row[column, row] = -1
            return
        if (place := self._own.get(row)) is None:
            if self.is_full:
                self._drop_others()
            place = self._own[row] = len(self._masks)
            self._masks.append(mask)
            self._words[place] = mask
        elif self._masks[place] is not mask:
            self._masks[place] = self._words[place] = mask
        self.of_row[column, row] = place

    def place_of(self, mask: UInt32) -> int:
        """-1 for one more than there is room for."""
        if (place := self._places.get(id(mask))) is not None:
            return place
        if self.is_full:
            return -1
        place = self._places[id(mask)] = len(self._masks)
        self._masks.append(mask)
        self._words[place] = mask
        return place

    @property
    def is_full(self) -> bool:
        return len(self._masks) == len(self._words)

    def _drop_others(self) -> None:
        """But those that rows have."""
        self._before_drop()
        used = np.unique(self.of_row[self.of_row >= 0])
        now_at = np.full(len(self._words) + 1, -1, np.int32)  # the last one for -1
        now_at[used] = np.arange(len(used))
        self.of_row[:] = now_at[self.of_row]
        self._words[: len(used)] = self._words[used]
        self._masks = [self._masks[place] for place in used.tolist()]
        own = ((row, now_at.item(place)) for row, place in self._own.items())
        self._own = {row: place for row, place in own if place >= 0}
        shared = {*range(len(self._masks))} - {*self._own.values()}
        self._places = {id(self._masks[place]): place for place in shared}
