"""Which rows of a batch need a look at their tokens, found in the native library."""

from shoal.kernels.native import Int32, available
from shoal.kernels.sampling import UInt8

if available():
    from shoal.kernels import _native

LOOK = -1
"""In place of a table: each token needs a look, but for those that lead on."""
NOWHERE = -1
"""In place of a place."""


class RowTracker:
    """Rows under grammars that learn nothing from their tokens need no look: a plain token of free
    text changes nothing, and one that leads from a known place to another changes what is known.

    Raises RuntimeError where the library is not built; ValueError for an index of a row, place or
    table that is not there, and for shapes that do not fit.
    """

    def __init__(self) -> None:
        if not available():
            raise RuntimeError("the native kernels are not built; available() says so beforehand")
        self._native = _native.RowTracker()

    def begin(self, masks: Int32, table_of_row: Int32, before: list[int]) -> None:
        """Of other rows: the ones that were `before` [R]; -1 for one that never needs a look.
        `masks` [columns, R], `table_of_row` [R]: are written where a row has gone on, see
        `look_at`."""
        self._native.begin(masks, table_of_row, before)

    def set_tables(self, num_chars: UInt8) -> None:
        """[tables, ids] the characters of each token, more than 0 for a plain one. Those that rows
        and places have must be among them."""
        self._native.set_tables(num_chars)

    def look_at(self, row: int, column: int, *, has_others: bool, needs_mask: bool) -> None:
        """Its tokens need a look. `column`: where its mask is to be written once it is followed;
        -1 for nowhere. `has_others`: its table is written too. `needs_mask`: it cannot go where
        none is known."""
        self._native.look_at(row, column, has_others, needs_mask)

    def put(self, row: int, table: int, chars_left: int, place: int) -> None:
        """Its plain tokens need no look up to the one with more characters than `chars_left`; below
        0: none of them. It is followed from `place`, or NOWHERE."""
        self._native.put(row, table, chars_left, place)

    def take(self, row: int) -> tuple[int, list[int]]:
        """It is followed no longer. Its place, and the tokens that led there since it was put."""
        return self._native.take(row)

    def add_place(self, table: int, chars_left: int, mask: int) -> int:
        """`table`, `chars_left`: as `put`, not above 0. `mask`: of the next token, -1 where it is
        not known."""
        return self._native.add_place(table, chars_left, mask)

    def set_mask(self, place: int, mask: int) -> None:
        self._native.set_mask(place, mask)

    def add_way(self, start: int, token_id: int, end: int) -> None:
        """From one place to another."""
        self._native.add_way(start, token_id, end)

    def add_plain_way(self, start: int, end: int, others: list[int]) -> None:
        """From one place, where each needs a look, to another, by plain tokens but these."""
        self._native.add_plain_way(start, end, others)

    def forget_places(self) -> None:
        """And where rows are: none is followed any more."""
        self._native.forget_places()

    def to_look_at(self, tokens: Int32) -> list[int]:
        """Of tokens [R] that may come next, the rows that need a look at theirs, in order."""
        return self._native.to_look_at(tokens)

    def advance(self, tokens: Int32) -> list[int]:
        """As `to_look_at`, of those that do come next: the others go on."""
        return self._native.advance(tokens)
