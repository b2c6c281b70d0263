"""Packs hold every row once and share beginnings that may be shared; what they hold is decided by
the rows alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.train.finetune.pack import MIN_PREFIX, Pack, make_packs
from shoal.train.finetune.rows import EncodedRow
from tests.train.finetune.rows import make_row, random_rows

Unpacked = list[tuple[list[int], list[int], list[int]]]


def unpacked(packs: list[Pack]) -> Unpacked:
    """(ids, positions, targets) of every row, its beginning before it."""
    rows: Unpacked = []
    for pack in packs:
        seen = np.zeros(len(pack.token_ids), bool)
        for prefix, spans in pack.groups:
            for start, length in (prefix, *spans):
                assert not seen[start : start + length].any()
                seen[start : start + length] = True
            before = np.arange(prefix.start, sum(prefix))
            assert (pack.targets[before] == -1).all()
            for span in spans:
                tokens = np.concatenate((before, np.arange(span.start, sum(span))))
                arrays = (pack.token_ids, pack.positions, pack.targets)
                ids, positions, targets = (array[tokens].tolist() for array in arrays)
                rows.append((ids, positions, targets))
        assert seen.all()
    return rows


def wanted(rows: list[EncodedRow]) -> Unpacked:
    found: Unpacked = []
    for row in rows:
        ids = row.ids.tolist()
        following = zip(ids[1:], row.in_loss[1:].tolist(), strict=True)
        targets = [token_id if learned else -1 for token_id, learned in following]
        found.append((ids, list(range(len(ids))), [*targets, -1]))
    return found


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_rows_come_out_as_they_went_in(data: st.DataObject) -> None:
    beginnings = [[1] * 12, [1] * 12 + [2] * 9, [3] * 20, []]
    lengths = st.integers(1, 30)
    rows = []
    for _ in range(data.draw(st.integers(0, 12))):
        own = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=25))
        ids = data.draw(st.sampled_from(beginnings)) + own
        rows.append(make_row(ids, data.draw(lengths)))
    pack_tokens = data.draw(st.integers(1, 120))
    packs = make_packs(rows, pack_tokens)
    assert sorted(unpacked(packs)) == sorted(wanted(rows))
    for pack in packs:
        num_rows = sum(len(group.rows) for group in pack.groups)
        assert len(pack.token_ids) <= pack_tokens or num_rows == 1
    assert sum(pack.num_row_tokens for pack in packs) == sum(len(row.ids) for row in rows)


def test_a_common_beginning_stands_once_in_a_pack() -> None:
    rows = random_rows([(40, 30), (50, 45), (45, 31)], prefix=25)
    (pack,) = make_packs(rows, 200)
    assert len(pack.token_ids) == 25 + 15 + 25 + 20
    assert [group.prefix.length for group in pack.groups] == [25]
    assert pack.num_row_tokens == 135
    packs = make_packs(rows, 60)
    assert sorted(len(pack.token_ids) for pack in packs) == [50, 60]


def test_what_is_learned_or_predicts_it_is_not_shared() -> None:
    one, two = make_row([7] * 30 + [1], 20), make_row([7] * 30 + [2], 25)
    (pack,) = make_packs([one, two], 100)
    assert [group.prefix.length for group in pack.groups] == [19]
    learned = [make_row([7] * 30 + [last], 1) for last in (1, 2)]
    (pack,) = make_packs(learned, 100)
    assert len(pack.token_ids) == 62


def test_different_beginnings_are_shared_each_by_its_rows() -> None:
    start = list(range(10))
    rows = [
        make_row([*start, *[system] * 20, 50 + index, 99], 31)
        for system in (20, 30)
        for index in range(3)
    ]
    (pack,) = make_packs(rows, 1000)
    assert sorted(group.prefix.length for group in pack.groups) == [30, 30]
    assert len(pack.token_ids) == 2 * 30 + 6 * 2


def test_a_short_beginning_is_not_shared() -> None:
    rows = random_rows([(30, 20), (30, 20)], prefix=MIN_PREFIX - 1)
    (pack,) = make_packs(rows, 1000)
    assert len(pack.token_ids) == 60


def test_packs_are_about_equally_full() -> None:
    rows = random_rows([(20 + i % 17, 15) for i in range(60)])
    packs = make_packs(rows, 512)
    sizes = [len(pack.token_ids) for pack in packs]
    assert len(sizes) == -(-sum(sizes) // 512)
    assert max(sizes) - min(sizes) < 40


def test_the_order_of_rows_does_not_change_how_full_packs_are() -> None:
    rows = random_rows([(20 + i, 15) for i in range(20)], prefix=12)
    forward, backward = make_packs(rows, 128), make_packs(rows[::-1], 128)
    for one, other in zip(forward, backward, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()


def test_no_rows_are_no_packs_and_no_tokens_are_refused() -> None:
    assert make_packs([], 100) == []
    with pytest.raises(ValueError, match="a pack of 0 tokens"):
        make_packs([], 0)
