"""Rows that are followed natively, beside a twin in Python."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from shoal.kernels.native import available
from shoal.kernels.row_tracker import LOOK, NOWHERE, RowTracker

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

NO_LOOK, UNKNOWN = -2, -1
NUM_IDS, MOST_TOLD = 12, 256


@dataclass
class Place:
    table: int
    chars_left: int
    mask: int
    ways: dict[int, int] = field(default_factory=dict)
    behind_plain: int = NOWHERE


@dataclass
class TwinRow:
    table: int = NO_LOOK
    chars_left: int = -1
    place: int = NOWHERE
    column: int = -1
    has_others: bool = False
    needs_mask: bool = False
    told: list[int] = field(default_factory=list)


class Twin:
    """What `RowTracker` says of itself, with no thought of speed."""

    def __init__(self, num_chars: np.ndarray) -> None:
        self.num_chars, self.places = num_chars, list[Place]()
        self.rows: list[TwinRow] = []
        self.masks = np.empty((2, 0), np.int32)
        self.tables = np.empty(0, np.int32)

    def step(self, tokens: list[int], *, moves: bool) -> list[int]:
        found = []
        for index, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.table == NO_LOOK:
                continue
            is_known = row.table >= 0 and 0 <= token < NUM_IDS
            chars = int(self.num_chars[row.table, token]) if is_known else 0
            if chars and (row.chars_left < 0 or row.chars_left >= chars):
                row.chars_left -= chars if moves and row.chars_left >= 0 else 0
                continue
            place = self.places[row.place] if row.place != NOWHERE else None
            to = NOWHERE
            if place is not None and len(row.told) < MOST_TOLD:
                to = place.ways.get(token, place.behind_plain if chars else NOWHERE)
            if to == NOWHERE or (row.needs_mask and self.places[to].mask == UNKNOWN):
                found.append(index)
            elif moves:
                at = self.places[to]
                row.told.append(token)
                row.place, row.table, row.chars_left = to, at.table, at.chars_left
                if row.column >= 0:
                    self.masks[row.column, index] = at.mask
                if row.has_others:
                    self.tables[index] = at.table
        return found


def begin(rng: random.Random, twin: Twin, tracker: RowTracker) -> list[np.ndarray]:
    """Other rows. The arrays that the tracker writes to."""
    kept = rng.sample(range(len(twin.rows)), rng.randint(0, len(twin.rows)))
    before = [*kept, *[-1] * rng.randint(not kept, 4)]
    rng.shuffle(before)
    arrays = [np.full((2, len(before)), -1, np.int32), np.full(len(before), -1, np.int32)]
    tracker.begin(*arrays, before)
    twin.rows = [twin.rows[r] if r >= 0 else TwinRow() for r in before]
    twin.masks, twin.tables = arrays[0].copy(), arrays[1].copy()
    return arrays


def change(rng: random.Random, twin: Twin, tracker: RowTracker) -> None:
    """Something that is told between steps."""
    index = rng.randrange(len(twin.rows))
    places = [NOWHERE, *range(len(twin.places))]
    match rng.randrange(8):
        case 0:
            row = TwinRow(LOOK, -1, NOWHERE, rng.randint(-1, 1), rng.random() < 0.5,
                          rng.random() < 0.3)  # fmt: skip
            twin.rows[index] = row
            tracker.look_at(index, row.column, has_others=row.has_others, needs_mask=row.needs_mask)
        case 1 | 2:
            row, place = twin.rows[index], rng.choice(places)
            row.table, row.chars_left, row.place = rng.randint(-1, 1), rng.randint(-1, 5), place
            if place != NOWHERE:
                row.table = twin.places[place].table
                row.chars_left = twin.places[place].chars_left
            row.told = []
            tracker.put(index, row.table, row.chars_left, place)
        case 3:
            row = twin.rows[index]
            assert tracker.take(index) == (row.place, row.told)
            row.place, row.told = NOWHERE, []
        case 4:
            place_ = Place(rng.randint(-1, 1), rng.randint(-1, 0), rng.randint(-1, 5))
            assert tracker.add_place(place_.table, place_.chars_left, place_.mask) == len(
                twin.places
            )
            twin.places.append(place_)
        case 5 if twin.places:
            place, mask = rng.randrange(len(twin.places)), rng.randrange(6)
            twin.places[place].mask = mask
            tracker.set_mask(place, mask)
        case 6 if twin.places:
            start, end = (rng.randrange(len(twin.places)) for _ in range(2))
            token = rng.randrange(NUM_IDS)
            twin.places[start].ways[token] = end
            tracker.add_way(start, token, end)
        case 7 if twin.places:
            start, end = (rng.randrange(len(twin.places)) for _ in range(2))
            others = rng.sample(range(NUM_IDS), 2)
            twin.places[start].ways.update(dict.fromkeys(others, NOWHERE))
            twin.places[start].behind_plain = end
            tracker.add_plain_way(start, end, others)


@pytest.mark.parametrize("seed", range(12))
def test_rows_go_where_the_twin_goes(seed: int) -> None:
    rng = random.Random(seed)
    num_chars = np.array(
        [[rng.choice([0, 0, 1, 3]) for _ in range(NUM_IDS)] for _ in range(2)], np.uint8
    )
    twin, tracker, num_moves = Twin(num_chars), RowTracker(), 0
    tracker.set_tables(num_chars)
    arrays = begin(rng, twin, tracker)
    for _ in range(3000):
        if rng.random() < 0.01:
            arrays = begin(rng, twin, tracker)
        if rng.random() < 0.002:
            tracker.forget_places()
            twin.places = []
            for row in twin.rows:
                row.place, row.told = NOWHERE, []
        for _ in range(rng.randrange(4)):
            change(rng, twin, tracker)
        tokens = [rng.randrange(-1, NUM_IDS + 1) for _ in twin.rows]
        as_array = np.array(tokens, np.int32)
        assert tracker.to_look_at(as_array) == twin.step(tokens, moves=False)
        if rng.random() < 0.8:
            num_told = sum(len(row.told) for row in twin.rows)
            assert tracker.advance(as_array) == twin.step(tokens, moves=True)
            num_moves += sum(len(row.told) for row in twin.rows) - num_told
        np.testing.assert_array_equal(arrays[0], twin.masks)
        np.testing.assert_array_equal(arrays[1], twin.tables)
    assert num_moves > 100


def test_a_row_that_went_far_needs_a_look() -> None:
    tracker = RowTracker()
    tracker.begin(np.full((1, 1), -1, np.int32), np.full(1, -1, np.int32), [-1])
    tracker.look_at(0, -1, has_others=False, needs_mask=False)
    place = tracker.add_place(LOOK, -1, -1)
    tracker.add_way(place, 7, place)
    tracker.put(0, LOOK, -1, place)
    token = np.array([7], np.int32)
    for _ in range(MOST_TOLD):
        assert tracker.advance(token) == []
    assert tracker.advance(token) == [0]
    assert tracker.take(0) == (place, [7] * MOST_TOLD)


def test_what_is_not_there_is_refused() -> None:
    tracker = RowTracker()
    tracker.begin(np.full((1, 2), -1, np.int32), np.full(2, -1, np.int32), [-1, -1])
    tracker.set_tables(np.zeros((1, NUM_IDS), np.uint8))
    place = tracker.add_place(0, -1, -1)
    tracker.look_at(1, 0, has_others=False, needs_mask=False)
    for call in (
        lambda: tracker.put(2, 0, -1, place),
        lambda: tracker.put(0, 1, -1, place),
        lambda: tracker.put(0, -2, -1, place),
        lambda: tracker.put(0, 0, -1, place + 1),
        lambda: tracker.take(2),
        lambda: tracker.look_at(0, 1, has_others=False, needs_mask=False),
        lambda: tracker.add_place(1, -1, -1),
        lambda: tracker.add_place(0, 1, -1),
        lambda: tracker.set_mask(place + 1, 0),
        lambda: tracker.add_way(place, 0, place + 1),
        lambda: tracker.add_plain_way(place + 1, place, []),
        lambda: tracker.set_tables(np.zeros((0, NUM_IDS), np.uint8)),  # a place has one
        lambda: tracker.advance(np.zeros(3, np.int32)),
        lambda: tracker.to_look_at(np.zeros(1, np.int32)),
        lambda: tracker.begin(np.zeros((1, 2), np.int32), np.zeros(1, np.int32), [-1]),
        lambda: tracker.begin(np.zeros((1, 1), np.int32), np.zeros(1, np.int32), [2]),
        lambda: tracker.begin(np.zeros((0, 1), np.int32), np.zeros(1, np.int32), [1]),
        lambda: RowTracker().look_at(0, -1, has_others=False, needs_mask=False),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):  # a copy would not see what is written
        tracker.begin(np.zeros((1, 1), np.int64), np.zeros(1, np.int32), [-1])
