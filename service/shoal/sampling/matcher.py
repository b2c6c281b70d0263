"""A matcher of llguidance that knows what others found: answers to one schema resemble each other.

What may follow depends on the grammar and the tokens so far alone. For each place that sequences
under a grammar have been at, a tree of tokens keeps what the library said there, so that the next
one need not ask. A sequence's own matcher is copied, and told of its tokens, when it comes to a
place where something is new.
"""

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MOST_PLACES = 1 << 14
"""Of all grammars of a model; some 6 MB."""
_MOST_UNTOLD = 64
"""Tokens that a sequence's own matcher is told of at once."""


class _End(NamedTuple):
    is_stopped: bool
    is_error: bool


class _Place:
    """Behind some tokens. None: nobody has asked."""

    __slots__ = (
        "__weakref__", "behind_forced", "end", "forced", "next", "num_forced", "num_valid",
    )  # fmt: skip

    def __init__(self) -> None:
        self.next: dict[int, _Place | None] = {}
        """[token] None for one that may not come."""
        self.end: _End | None = None
        self.forced: list[int] | None = None
        self.num_forced = 0  # that sequences took
        self.behind_forced: _Place | None = None
        self.num_valid: int | None = None


class Places:
    """Of sequences that share what they find, under any grammar of a model."""

    def __init__(self, most: int = _MOST_PLACES) -> None:
        self._most = most
        self._num = 0
        self._beginnings: WeakSet[_Place] = WeakSet()

    def begin(self, matcher: "LLMatcher") -> "Matcher":
        """`matcher`: at its grammar's beginning, where it stays."""
        beginning = _Place()
        self._beginnings.add(beginning)
        return Matcher(matcher, self, beginning)

    def new(self) -> _Place:
        """One more. All are forgotten where they are too many."""
        if self._num == self._most:
            self._num = 0
            for beginning in self._beginnings:
                beginning.next.clear()
                beginning.behind_forced = None
        self._num += 1
        return _Place()


class Matcher:
    """Of one sequence. Has those methods of `LLMatcher` that are used here, and means the same."""

    __slots__ = ("_is_shared", "_matcher", "_place", "_places", "_untold")

    def __init__(self, matcher: "LLMatcher", places: Places, place: _Place | None) -> None:
        """`matcher`: shared by all at this place. `place`: None where others never come."""
        self._matcher = matcher
        self._is_shared = True
        self._untold: list[int] = []  # accepted; the matcher will be told
        self._places = places
        self._place = place

    @property
    def own(self) -> "LLMatcher":
        """The library's, behind all tokens so far."""
        if self._is_shared:
            self._matcher = self._matcher.deep_copy()
            self._is_shared = False
        if self._untold:
            self._matcher.consume_tokens(self._untold)
            self._untold = []
        return self._matcher

    def deep_copy(self) -> "Matcher":
        """Another one at the same place."""
        self._is_shared = True
        return self.ahead()

    def ahead(self) -> "Matcher":
        """Another one to look ahead with, as long as this one stays here."""
        copy = Matcher(self._matcher, self._places, self._place)
        copy._untold = [*self._untold]
        return copy

    @property
    def is_known(self) -> bool:
        """May others have been at this place?"""
        return self._place is not None

    def knows(self, token_id: int) -> bool:
        """Has it been seen whether this token may come next?"""
        return self._place is not None and token_id in self._place.next

    def is_stopped(self) -> bool:
        return self._end().is_stopped

    def is_error(self) -> bool:
        return self._end().is_error

    def try_consume_tokens(self, token_ids: list[int]) -> int:
        """How many of them were accepted."""
        for index, token_id in enumerate(token_ids):
            place = self._place
            if place is None or token_id not in place.next:
                is_next = self._ask(token_id)
            elif is_next := (behind := place.next[token_id]) is not None:
                self._go_on([token_id], behind)
            if not is_next:
                return index
        return len(token_ids)

    def consume_token(self, token_id: int) -> bool:
        """One that may not come is an error."""
        if self.try_consume_tokens([token_id]):
            return True
        self._place = None
        return self.own.consume_token(token_id)

    def consume_tokens(self, token_ids: list[int]) -> bool:
        """Those that are forced, or some of free text: others are not expected to say the same."""
        if (place := self._place_behind(token_ids)) is None:
            self._place = None
            return self.own.consume_tokens(token_ids)
        self._go_on(token_ids, place)
        return True

    def compute_ff_tokens(self) -> list[int]:
        """Those that must come next."""
        if (place := self._place) is None:
            return self.own.compute_ff_tokens()
        if place.forced is None:
            place.forced = self.own.compute_ff_tokens()
        return place.forced

    def validate_tokens(self, token_ids: list[int]) -> int:
        """How many would be accepted; always of the same tokens."""
        if (place := self._place) is None:
            return self.own.validate_tokens(token_ids)
        if place.num_valid is None:
            place.num_valid = self.own.validate_tokens(token_ids)
        return place.num_valid

    def compute_ff_bytes(self) -> bytes:
        return self.own.compute_ff_bytes()

    def compute_bitmask(self) -> bytes:
        return self.own.compute_bitmask()

    def _ask(self, token_id: int) -> bool:
        """Goes on behind a token, if the library says that it may come."""
        matcher, place = self.own, self._place
        is_next = bool(matcher.try_consume_tokens([token_id]))
        if place is not None and is_next:
            self._place = place.next[token_id] = self._places.new()
        elif place is not None and not self.is_error():
            place.next[token_id] = None
        return is_next

    def _place_behind(self, token_ids: list[int]) -> _Place | None:
        """None for tokens that are not forced here."""
        num, place = len(token_ids), self._place
        if place is None or place.forced is None or place.forced[:num] != token_ids:
            return None
        if place.behind_forced is None:
            place.num_forced, place.behind_forced = num, self._places.new()
        return place.behind_forced if place.num_forced == num else None

    def _go_on(self, token_ids: list[int], place: _Place) -> None:
        self._untold += token_ids
        self._place = place
        if len(self._untold) >= _MOST_UNTOLD:
            _ = self.own

    def _end(self) -> _End:
        if (place := self._place) is None:
            return _end_of(self.own)
        if place.end is None:
            place.end = _end_of(self.own)
        return place.end


def _end_of(matcher: "LLMatcher") -> _End:
    return _End(matcher.is_stopped(), matcher.is_error())
