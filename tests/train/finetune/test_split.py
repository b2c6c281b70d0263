"""Which rows are held out: by their content alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from shoal.train.finetune.rows import Row
from shoal.train.finetune.split import split

ROWS = [Row(f"a, line {n}", prompt=f"question {n}", completion="yes") for n in range(2000)]


def test_about_the_share_is_held_out_in_order() -> None:
    train, held_out = split(ROWS, 0.1, seed=1)
    assert 150 < len(held_out) < 250
    assert sorted([*train, *held_out], key=ROWS.index) == ROWS
    assert train == sorted(train, key=ROWS.index)
    assert split(ROWS, 0.0, seed=1) == (ROWS, [])


def test_order_places_and_further_rows_change_nothing() -> None:
    _, held_out = split(ROWS[:1000], 0.1, seed=1)
    moved = [replace(row, where="elsewhere") for row in ROWS]
    random.Random(0).shuffle(moved)
    found = {row.prompt for row in split(moved, 0.1, seed=1)[1]}
    assert found & {row.prompt for row in ROWS[:1000]} == {row.prompt for row in held_out}


def test_equal_rows_are_on_one_side() -> None:
    train, held_out = split([*ROWS, *ROWS], 0.3, seed=5)
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}


def test_another_seed_holds_out_others() -> None:
    first, second = ({row.where for row in split(ROWS, 0.1, seed=s)[1]} for s in (1, 2))
    assert len(first & second) < 60


def test_something_is_left_to_train_on() -> None:
    for seed in range(20):
        assert split(ROWS[:1], 0.9, seed) == (ROWS[:1], [])


def test_every_field_counts() -> None:
    row = Row("", messages=({"role": "user", "content": "a"},), variables={"a": 1})
    others = [
        replace(row, messages=({"role": "user", "content": "b"},)),
        replace(row, tools=({"type": "function"},)),
        replace(row, context_only=frozenset({0})),
        replace(row, variables={"a": 2}),
        replace(row, prompt="a"),
        replace(row, completion="a"),
        replace(row, text="a"),
        replace(row, is_end=False),
    ]
    assert len({each.digest() for each in (row, *others)}) == 1 + len(others)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_below_one(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        split(ROWS, share, seed=0)
