"""The sampler reads of each row the mask that it was given last."""

import random

import numpy as np
import pytest

from shoal.sampling import mask_table
from shoal.sampling.mask_table import CHECKED, FIRST, MaskTable


def test_each_row_has_its_last_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_table, "_MORE", 3)
    rng, num_drops = random.Random(0), 0
    masks = [np.array([n, ~np.uint32(n)], np.uint32) for n in range(40)]
    kept_places: dict[int, int] = {}  # of masks that somebody has looked up

    def before_drop() -> None:
        nonlocal num_drops
        num_drops += 1
        kept_places.clear()

    table = MaskTable(50, before_drop)
    has: list[list[int | None]] = [[], []]
    own: list[bool] = []  # rows that alone have their masks
    for _ in range(3000):
        if rng.random() < 0.02:  # other rows
            before = [*range(len(has[0])), *[-1] * 5]
            rng.shuffle(before)
            before = before[: rng.randrange(9)]
            table.begin(before)
            has = [[None if row < 0 else of_row[row] for row in before] for of_row in has]
            own = [own[row] if row >= 0 else rng.random() < 0.4 for row in before]
        if has[0] and rng.random() < 0.9:
            column, row = rng.choice([FIRST, CHECKED]), rng.randrange(len(has[0]))
            wanted = rng.choice([None, *range(40)])
            mask = None if wanted is None else masks[wanted]
            if own[row]:
                column = FIRST
                table.set_own(column, row, mask)
            else:
                table.set(column, row, mask)
            has[column][row] = wanted
        else:
            wanted = rng.randrange(40)
            place = table.place_of(masks[wanted])
            assert place >= 0 or table.is_full
            if place >= 0:
                kept_places[wanted] = place
        for column, of_row in enumerate(has):
            words, places = table.column(column).words, table.column(column).mask_of_row.tolist()
            for place, one in zip(places, of_row, strict=True):
                assert (one is None) == (place < 0)
                if one is not None:
                    np.testing.assert_array_equal(words[place], masks[one])
        for wanted, place in kept_places.items():
            np.testing.assert_array_equal(table.column(FIRST).words[place], masks[wanted])
    assert num_drops > 20


def test_rows_with_the_same_mask_share_its_words() -> None:
    table, mask = MaskTable(64, lambda: None), np.zeros(2, np.uint32)
    table.begin([-1] * 3)
    for row in range(3):
        table.set(row % 2, row, mask)
    assert table.of_row.max(axis=0).tolist() == [table.place_of(mask)] * 3
