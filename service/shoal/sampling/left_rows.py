"""Rows of a batch that are left by their grammars, for it is known what their tokens change.

A plain token in free text (`free_text.py`) changes nothing: one call sees to all rows, and tells
which need a look. Those are followed from place to place (`places.py`) as long as others went the
same way. A grammar catches up when something new comes.
"""

from functools import partial

import numpy as np

from shoal.kernels.sampling import NO_LOOK, rows_to_look_at
from shoal.sampling.arrays import Int32, UInt8
from shoal.sampling.places import Arrival, Place, Way
from shoal.sampling.processors.grammar import Grammar

_LOOK = -1
_MOST_TOKENS = 256
"""Of each row that are kept."""


class LeftRow:
    """One that is left."""

    __slots__ = ("grammar", "is_free", "mask", "place", "since", "told")

    def __init__(self, grammar: Grammar, since: int) -> None:
        """`since`: the first token in the memory that its grammar is to be told; below 0: it is at
        a place, behind tokens that it knows."""
        self.grammar = grammar  # its text is that of the place
        self.place: Place | None = grammar.place
        self.is_free = grammar.is_free
        """Does its next token come in free text?"""
        self.mask = grammar.known_mask
        """Of its next token, if it is known."""
        self.since = since
        self.told: list[int] = []  # since it is left, up to its place


class LeftRows:
    """Of rows that sample together."""

    def __init__(self, num_rows: int, num_token_ids: int, looked_at: list[int]) -> None:
        """`looked_at`: rows that need a look at each token unless they are left. Others never
        do."""
        self._rows: dict[int, LeftRow] = {}
        self._looked_at = looked_at
        self._table_of_row = np.full(num_rows, NO_LOOK, np.int32)
        self._table_of_row[looked_at] = _LOOK
        self._chars_left = np.full(num_rows, -1, np.int32)
        self._found = np.empty(num_rows, np.int32)
        self._tables: list[bytes] = []
        self.num_chars: UInt8 = np.empty((0, num_token_ids), np.uint8)
        """[tables, num_token_ids]"""
        self._tokens: list[Int32] = []  # of some steps

    def leave(self, row: int, grammar: Grammar) -> None:
        """From the next token on. `grammar.may_be_left`."""
        chars_left = grammar.leave(partial(self._take, row))
        is_waiting = grammar.is_free and chars_left >= 0
        self._rows[row] = LeftRow(grammar, len(self._tokens) if is_waiting else -1)
        if grammar.is_free:
            self._let_be(row, grammar, chars_left)

    def table(self, num_chars: bytes) -> int:
        """Its index in `num_chars`."""
        for table, each in enumerate(self._tables):
            if each is num_chars:
                return table
        self._tables.append(num_chars)
        self.num_chars = np.stack([np.frombuffer(each, np.uint8) for each in self._tables])
        return len(self._tables) - 1

    def to_look_at(self, tokens: Int32) -> list[int]:
        """Rows that need a look at their token [R]: all but those that are left in free text and
        whose token is plain."""
        if not self._rows:
            return self._looked_at
        return rows_to_look_at(
            tokens, self.num_chars, self._table_of_row, self._chars_left, self._found
        )

    def admits(self, row: int, token_id: int) -> bool | None:
        """Does the row's grammar admit it? None where only the grammar tells."""
        if (left := self._rows.get(row)) is None:
            return None
        if left.is_free:
            if left.grammar.num_chars[token_id]:
                return True
            if left.grammar.is_never_free(token_id):
                return False
        if left.since >= 0 or left.place is None or token_id not in left.place.next:
            return None
        return left.place.next[token_id] is not None

    def is_waiting(self, row: int) -> bool:
        """Is it left with tokens that its grammar is to be told?"""
        return row in self._rows and self._rows[row].since >= 0

    def follow(self, row: int, token_id: int) -> LeftRow | None:
        """Goes on behind the row's next token, which its grammar admits; None where only that
        knows what it changes."""
        if (left := self._rows.get(row)) is None:
            return None
        if left.is_free and (num_chars := left.grammar.num_chars[token_id]):
            goes_on = left.since < 0 or self._goes_on_in_text(row, left, token_id, num_chars)
            return left if goes_on else None
        if left.since >= 0 or left.place is None or len(left.told) >= _MOST_TOKENS:
            return None
        place = left.place.behind(token_id)
        if place is None or (arrival := place.arrival) is None:
            return None
        if arrival.forced or arrival.is_over:
            return None
        left.told.append(token_id)
        self._arrive(row, left, arrival.behind or place, arrival)
        return left

    def remember(self, tokens: Int32) -> None:
        """They are those of the last step [R]; rows that needed a look have been followed or
        told."""
        if not self._rows:
            return
        self._tokens.append(tokens)
        if len(self._tokens) < _MOST_TOKENS:
            return
        waiting = [(row, left.grammar) for row, left in self._rows.items() if left.since >= 0]
        for _, grammar in waiting:
            grammar.catch_up()
        self._tokens.clear()
        for row, grammar in waiting:
            if grammar.may_be_left:
                self.leave(row, grammar)

    def release(self) -> None:
        """No row is left."""
        for left in [*self._rows.values()]:
            left.grammar.catch_up()

    def _goes_on_in_text(self, row: int, left: LeftRow, token_id: int, num_chars: int) -> bool:
        """In free text that may still change something, see `FreeText.waits`."""
        if (chars_left := self._chars_left.item(row)) >= 0:  # this token came in another's place
            self._chars_left[row] = chars_left = chars_left - num_chars
            if chars_left >= 0:
                return True
        if left.place is None:
            return False
        token_ids, text = [*self._since(row, left.since), token_id], left.grammar.text
        if (chars_left := text.waits_behind(token_ids)) >= 0:
            if left.grammar.masks_first:
                return False
            left.mask = None
            self._chars_left[row] = chars_left
            return True
        if (place := left.grammar.behind_free_text(left.place)) is None:
            return False
        left.told += token_ids
        text.waits = -1
        left.place, left.since = place, -1
        left.mask = place.allowed_for(left.grammar.end_ids)
        return True

    def _arrive(self, row: int, left: LeftRow, place: Place, arrival: Arrival) -> None:
        """As an earlier one did."""
        left.place, left.is_free = place, arrival.is_free
        left.mask = place.allowed_for(left.grammar.end_ids)
        if left.is_free:
            text = left.grammar.text
            text.arrive(arrival.text)
            left.since = len(self._tokens) + 1 if text.waits >= 0 else -1  # behind this step's
            self._let_be(row, left.grammar, text.until_look(is_mask_known=left.mask is not None))
        else:
            self._table_of_row[row] = _LOOK

    def _let_be(self, row: int, grammar: Grammar, chars_left: int) -> None:
        """Plain tokens need no look."""
        self._table_of_row[row] = self.table(grammar.num_chars)
        self._chars_left[row] = chars_left

    def _since(self, row: int, start: int) -> list[int]:
        return [tokens.item(row) for tokens in self._tokens[start:]]

    def _take(self, row: int) -> tuple[Way | None, list[int]]:
        """A row is left no longer. Which way it went, None: it stayed; and plain tokens that its
        grammar was not told since."""
        left = self._rows.pop(row)
        self._table_of_row[row] = _LOOK
        untold = self._since(row, left.since) if left.since >= 0 else []
        if left.place is None or not left.told:
            return None, untold
        return Way(left.told, left.place, left.is_free), untold
