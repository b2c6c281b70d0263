"""Rows of a batch that are left by their grammars, for it is known what their tokens change.

A plain token in free text (`free_text.py`) changes nothing, and where others went the same way the
next place is known (`places.py`): one call sees to all rows, and tells which need a look. Places
and the ways between them are told to the native library where a look finds them. A grammar catches
up when something new comes.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from shoal.kernels.row_tracker import LOOK, NOWHERE, RowTracker
from shoal.sampling.arrays import Int32, UInt8, UInt32
from shoal.sampling.mask_table import MaskTable
from shoal.sampling.places import NO_TEXT, Arrival, KnownText, Place, Way
from shoal.sampling.processors.grammar import Grammar

_Told = tuple[Way | None, list[int]]
"""See `Grammar.leave`."""
_MOST_TOKENS = 256
"""Of each row that are kept."""
_MOST_TABLES = 16
"""With so many, all are forgotten once other rows come."""
_MOST_KNOWN = 1024
"""Places that the library knows."""


class LeftRow:
    """One that is left."""

    __slots__ = ("earlier", "grammar", "is_ahead", "is_free", "known", "mask", "place", "row",
                 "since", "told")  # fmt: skip

    def __init__(self, row: int, grammar: Grammar) -> None:
        self.row = row
        self.grammar = grammar
        self.place: Place | None = grammar.place
        self.is_free = grammar.is_free
        """Does its next token come in free text?"""
        self.mask = grammar.known_mask
        """Of its next token, if it is known."""
        self.since = -1
        """The first token in the memory that its grammar is to be told; below 0: it is at a place,
        behind tokens that it knows."""
        self.earlier: list[int] = []
        """Tokens that it is to be told too: those that came before the memory began."""
        self.told: list[int] = []  # since it is left, up to its place
        self.known = NOWHERE
        """Where the library knows it to be, or knew it last."""
        self.is_ahead = False
        """The library follows it: what is above was true when it was looked at last."""


class _Known(NamedTuple):
    """What a row finds at a place that the library knows."""

    place: Place
    is_free: bool
    mask: UInt32 | None
    text: KnownText


def _as_it_is(told: _Told) -> _Told:
    return told


class LeftRows:
    """Of rows that sample together."""

    def __init__(self, num_token_ids: int) -> None:
        self.masks = MaskTable(num_token_ids, self.forget_places)
        self.table_of_row: Int32 = np.empty(0, np.int32)
        """[R] in `num_chars`, of rows that have others (`PlainTokens`); -1: it has none."""
        self.num_chars: UInt8 = np.empty((0, num_token_ids), np.uint8)
        """[tables, num_token_ids]"""
        self._tables: list[bytes] = []
        self._tracker = RowTracker()
        self._rows: dict[int, LeftRow] = {}
        self._looked_at: list[int] = []
        self._known: list[_Known] = []
        self._known_as: dict[tuple[int, tuple[int, ...], KnownText], int] = {}
        self._tokens: list[Int32] = []  # of some steps
        self._now_found: list[int] | None = None  # to look at, between a step and the next

    def begin(self, before: list[int], looked_at: list[int]) -> None:
        """With other rows: the ones that were `before` [R], -1 for new ones. Those that were left
        are mostly left still. `looked_at`: rows that need a look at each token unless they are
        left, see `look_at`; others never do."""
        remaining, has_room = {*before}, len(self._tables) < _MOST_TABLES
        for row, left in [*self._rows.items()]:
            if row not in remaining:  # it is over, mostly: nobody will ask its grammar
                left.grammar.leave(partial(_as_it_is, self._take(left)))
            elif not has_room:
                left.grammar.catch_up()
        self._begin_memory()
        if not (looked_at and has_room):
            self.forget_places()
            self._tables.clear()
            self._set_tables()
        self.masks.begin(before)
        tables = np.append(self.table_of_row, np.int32(-1))  # the last one for -1
        self.table_of_row = tables[before]
        self._tracker.begin(self.masks.of_row, self.table_of_row, before)
        self._rows = {row: self._rows[old] for row, old in enumerate(before) if old in self._rows}
        for row, left in self._rows.items():
            left.row = row
        self._looked_at = looked_at

    def look_at(self, row: int, column: int, *, has_others: bool, needs_mask: bool) -> None:
        """At the tokens of a new row, see `RowTracker`."""
        self._tracker.look_at(row, column, has_others=has_others, needs_mask=needs_mask)

    def is_left(self, row: int) -> bool:
        return row in self._rows

    def leave(self, row: int, grammar: Grammar) -> None:
        """From the next token on. `grammar.may_be_left`."""
        left = LeftRow(row, grammar)
        chars_left = grammar.leave(partial(self._take, left))
        self._rows[row] = left
        self._let_be(left, chars_left, len(self._tokens))

    def table(self, num_chars: bytes) -> int:
        """Its index in `num_chars`."""
        for table, each in enumerate(self._tables):
            if each is num_chars:
                return table
        self._tables.append(num_chars)
        self._set_tables()
        return len(self._tables) - 1

    def to_look_at(self, tokens: Int32) -> list[int]:
        """Rows that need a look at their token [R], if it comes next: all but those that are left
        and whose token is plain, in free text, or leads to another place that the library knows."""
        return self._tracker.to_look_at(tokens) if self._rows else self._looked_at

    def advance(self, tokens: Int32) -> list[int]:
        """As `to_look_at`, of those that do come next [R]: the others have them now."""
        if not self._rows:
            return self._looked_at
        self._now_found = self._tracker.advance(tokens)
        return self._now_found

    def admits(self, row: int, token_id: int) -> bool | None:
        """Does the row's grammar admit it? None where only the grammar tells."""
        if (left := self._found(row)) is None:
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
        if (left := self._found(row)) is None:
            return None
        start = left.known
        if left.is_free and left.grammar.num_chars[token_id]:
            if left.since < 0:
                self._let_be(left, -1, 0)
            elif not self._goes_on_in_text(left, token_id):
                return None
            elif start != NOWHERE and left.known != NOWHERE:
                self._know_steady(left, start, token_id)
            return left
        if left.since >= 0 or left.place is None or len(left.told) >= _MOST_TOKENS:
            return None
        if token_id in left.grammar.end_ids:  # to others it may be text
            return None
        place = left.place.behind(token_id)
        if place is None or (arrival := place.arrival) is None:
            return None
        if arrival.forced or arrival.is_over:
            return None
        left.told.append(token_id)
        self._arrive(left, arrival.behind or place, arrival)
        if start != NOWHERE and left.known != NOWHERE:
            self._tracker.add_way(start, token_id, left.known)
        return left

    def remember(self, tokens: Int32) -> None:
        """They are those of `advance`; rows that needed a look have been followed or told."""
        if len(self._known) == _MOST_KNOWN or self.masks.is_full:
            self.forget_places()
        self._now_found = None
        if not self._rows:
            return
        self._tokens.append(tokens)
        if len(self._tokens) == _MOST_TOKENS:
            for row, grammar in self._begin_memory():
                if grammar.may_be_left:
                    self.leave(row, grammar)

    def forget_places(self) -> None:
        """Those that the library knows."""
        for left in self._rows.values():
            self._see(left)
            left.known = NOWHERE
        self._tracker.forget_places()
        self._known.clear()
        self._known_as.clear()

    def _begin_memory(self) -> list[tuple[int, Grammar]]:
        """Of tokens, anew. Rows that have too many to be told: they are left no longer."""
        full = []
        for row, left in self._rows.items():
            if left.since >= 0:
                left.earlier, left.since = self._since(left), 0
                if len(left.earlier) >= _MOST_TOKENS:
                    full.append((row, left.grammar))
        self._tokens.clear()
        for _, grammar in full:
            grammar.catch_up()
        return full

    def _set_tables(self) -> None:
        tables = [np.frombuffer(each, np.uint8) for each in self._tables]
        self.num_chars = np.stack(tables) if tables else self.num_chars[:0]
        self._tracker.set_tables(self.num_chars)

    def _found(self, row: int) -> LeftRow | None:
        """One that needs a look: some if it is left."""
        if (left := self._rows.get(row)) is not None:
            self._see(left)
        return left

    def _see(self, left: LeftRow) -> None:
        """Where the library has followed it to."""
        if not left.is_ahead:
            return
        left.is_ahead = False
        left.known, told = self._tracker.take(left.row)
        if told:
            left.told += told
            left.place, left.is_free, left.mask, text = self._known[left.known]
            left.grammar.text.arrive(text)
            left.earlier, left.since = [], -1
            if left.is_free and text.waits >= 0:
                has_come_now = self._now_found is not None and left.row not in self._now_found
                left.since = len(self._tokens) + has_come_now

    def _goes_on_in_text(self, left: LeftRow, token_id: int) -> bool:
        """In free text that may still change something, see `FreeText.waits`."""
        if left.place is None:
            return False
        token_ids, text = [*self._since(left), token_id], left.grammar.text
        if (chars_left := text.waits_behind(token_ids)) >= 0:
            if left.grammar.masks_first:
                return False
            left.mask, left.known = None, NOWHERE
            table = self.table(left.grammar.num_chars)
            self._tracker.put(left.row, table, chars_left, NOWHERE)
            return True
        if (place := left.grammar.behind_free_text(left.place)) is None:
            return False
        left.told += token_ids
        text.waits = -1
        left.place = place
        left.mask = place.allowed_for(left.grammar.end_ids)
        self._let_be(left, -1, 0)
        return True

    def _arrive(self, left: LeftRow, place: Place, arrival: Arrival) -> None:
        """As an earlier one did."""
        left.place, left.is_free = place, arrival.is_free
        left.mask = place.allowed_for(left.grammar.end_ids)
        chars_left, text = -1, left.grammar.text
        if left.is_free:
            text.arrive(arrival.text)
            chars_left = text.until_look(is_mask_known=left.mask is not None)
        self._let_be(left, chars_left, len(self._tokens) + 1)  # behind this step's

    def _let_be(self, left: LeftRow, chars_left: int, next_token: int) -> None:
        """Plain tokens need no look up to the one with more characters, see `Grammar.leave`."""
        is_waiting = left.is_free and chars_left >= 0
        left.earlier, left.since = [], next_token if is_waiting else -1
        table = self.table(left.grammar.num_chars) if left.is_free else LOOK
        left.known = self._known_place(left, table)
        left.is_ahead = left.known != NOWHERE
        self._tracker.put(left.row, table, chars_left, left.known)

    def _know_steady(self, left: LeftRow, start: int, token_id: int) -> None:
        """The text behind `start` is steady with this token: it is so with others too."""
        others = left.grammar.text.not_steady_behind(self._known[start].text.string)
        if others is None:
            self._tracker.add_way(start, token_id, left.known)
        else:
            self._tracker.add_plain_way(start, left.known, others)

    def _known_place(self, left: LeftRow, table: int) -> int:
        """The row's, as the library knows it; NOWHERE for one where others do not come, or that is
        one too many."""
        place, mask, grammar = left.place, left.mask, left.grammar
        text = grammar.text.known if left.is_free and grammar.text.waits >= 0 else NO_TEXT
        if place is None or text.waits > 0 or not grammar.is_followed:
            return NOWHERE
        key = id(place), grammar.end_ids, text
        mask_place = -1 if mask is None else self.masks.place_of(mask)
        if len(self._known) == _MOST_KNOWN or (mask is not None and mask_place < 0):
            return NOWHERE
        if (known := self._known_as.get(key)) is None:
            known = self._known_as[key] = self._tracker.add_place(table, text.waits, mask_place)
            self._known.append(_Known(place, left.is_free, mask, text))
        elif mask is not None and self._known[known].mask is None:
            self._tracker.set_mask(known, mask_place)
            self._known[known] = _Known(place, left.is_free, mask, text)
        return known

    def _since(self, left: LeftRow) -> list[int]:
        """Tokens that its grammar is to be told."""
        return left.earlier + [tokens.item(left.row) for tokens in self._tokens[left.since :]]

    def _take(self, left: LeftRow) -> _Told:
        """A row is left no longer. Which way it went, None: it stayed; and plain tokens that its
        grammar was not told since."""
        self._see(left)
        del self._rows[left.row]
        self._tracker.put(left.row, LOOK, -1, NOWHERE)
        untold = self._since(left) if left.since >= 0 else []
        if left.place is None or not left.told:
            return None, untold
        return Way(left.told, left.place, left.is_free), untold
