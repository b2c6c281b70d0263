"""The sampler reads of each row the mask that it was given last."""

import random

import numpy as np

from shoal.sampling.mask_table import MaskTable


def test_each_row_has_its_last_mask() -> None:
    rng, num_rows = random.Random(0), 5
    masks = [np.array([n, ~np.uint32(n)], np.uint32) for n in range(40)]
    table = MaskTable(num_rows, 50)
    has: list[int | None] = [None] * num_rows
    for _ in range(1000):
        row, wanted = rng.randrange(num_rows), rng.choice([None, *range(40)])
        table.set(row, None if wanted is None else masks[wanted])
        has[row] = wanted
        assert table.num_masked == sum(one is not None for one in has)
        for each, one in enumerate(has):
            place = table.masks.mask_of_row.item(each)
            assert table.has(each) == (one is not None) == (place >= 0)
            if one is not None:
                np.testing.assert_array_equal(table.masks.words[place], masks[one])


def test_rows_with_the_same_mask_share_its_words() -> None:
    table, mask = MaskTable(3, 64), np.zeros(2, np.uint32)
    for row in range(3):
        table.set(row, mask)
    assert table.masks.mask_of_row.tolist() == [table.masks.mask_of_row.item(0)] * 3
