"""The masks of rows that sample together, as the native sampler reads them: each is there once."""

import numpy as np

from shoal.kernels.sampling import VocabularyMasks
from shoal.sampling.arrays import UInt32

_MORE = 8
"""Masks that are kept for nobody, beyond one for each row."""


class MaskTable:
    def __init__(self, num_rows: int, num_token_ids: int) -> None:
        words = np.empty((2 * num_rows + _MORE, -(-num_token_ids // 32)), np.uint32)
        self.masks = VocabularyMasks(words, np.full(num_rows, -1, np.int32))
        self._of_row: list[UInt32 | None] = [None] * num_rows
        self._kept: dict[int, tuple[int, UInt32]] = {}  # by identity: where it is
        self.num_masked = 0
        """Rows that have one."""

    def set(self, row: int, mask: UInt32 | None) -> None:
        """`mask` [words]: is not changed any more; None for none."""
        before = self._of_row[row]
        if mask is before:
            return
        self._of_row[row] = mask
        self.num_masked += (mask is not None) - (before is not None)
        self.masks.mask_of_row[row] = -1 if mask is None else self._place_of(mask)

    def has(self, row: int) -> bool:
        return self._of_row[row] is not None

    def _place_of(self, mask: UInt32) -> int:
        if (kept := self._kept.get(id(mask))) is not None:
            return kept[0]
        if len(self._kept) == len(self.masks.words):
            self._drop_others()
            return self._place_of(mask)
        place = len(self._kept)
        self._kept[id(mask)] = place, mask
        self.masks.words[place] = mask
        return place

    def _drop_others(self) -> None:
        """But those that rows have."""
        self._kept.clear()
        for row, mask in enumerate(self._of_row):
            if mask is not None:
                self.masks.mask_of_row[row] = self._place_of(mask)
