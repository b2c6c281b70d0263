"""A matcher of llguidance that knows what others found: answers to one schema resemble each other.

For each place that sequences under a grammar have been at it is known what the library said there,
so that the next one need not ask. A sequence's own matcher is copied, and told of its tokens, when
it comes to a place where something is new.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.sampling.places import Arrival, Place, Places

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MOST_UNTOLD = 64
"""Tokens that a sequence's own matcher is told of at once."""


def begin(
    matcher: "LLMatcher", places: Places, token_texts: Sequence[bytes] | None = None
) -> "Matcher":
    """`matcher`: at its grammar's beginning, where it stays. `token_texts`: by id, of a grammar
    that sees nothing but text; empty for tokens that are more or less than theirs."""
    place = places.begin(by_text=token_texts is not None)
    return Matcher(matcher, places, place, token_texts or ())


class Matcher:
    """Of one sequence. Has those methods of `LLMatcher` that are used here, and means the same."""

    __slots__ = ("_is_shared", "_matcher", "_places", "_texts", "_untold", "place")

    def __init__(
        self,
        matcher: "LLMatcher",
        places: Places,
        place: Place | None,
        token_texts: Sequence[bytes],
    ) -> None:
        """`matcher`: shared by all at this place."""
        self._matcher = matcher
        self._texts = token_texts
        self._is_shared = True
        self._untold: list[int] = []  # accepted; the matcher will be told
        self._places = places
        self.place = place
        """Where others may be too; None where they never come."""

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
        copy = Matcher(self._matcher, self._places, self.place, self._texts)
        copy._untold = [*self._untold]
        return copy

    @property
    def is_followed(self) -> bool:
        """May others come by?"""
        return self.place is not None and self._places.are_shared

    def leave_word(self, place: Place, arrival: Arrival) -> None:
        """`arrival`: what was found there; this is behind it."""
        place.arrival = arrival
        if place.stretch is None or arrival.forced or arrival.is_over:
            return
        if arrival.is_free or not self.own.compute_ff_bytes():
            self._places.forces_nothing(place)

    def go(self, token_ids: list[int], place: Place | None) -> None:
        """To a place behind these tokens, or behind others that lead there; None: here."""
        self._go_on(token_ids, place or self.place)

    def behind_free_text(self, place: Place) -> Place | None:
        """See `Places`."""
        return self._places.behind_free_text(place)

    @property
    def is_known(self) -> bool:
        """May others have been at this place?"""
        return self.place is not None

    def knows(self, token_id: int) -> bool:
        """Has it been seen whether this token may come next?"""
        if (place := self.place) is None:
            return False
        if place.behind(token_id) is not None or place.next.get(token_id, place) is None:
            return True
        return self._places.known_behind(place, self._text_of(token_id), token_id) is not None

    def is_stopped(self) -> bool:
        if (place := self.place) is None:
            return self.own.is_stopped()
        if place.is_stopped is None:
            place.is_stopped = self.own.is_stopped()
        return place.is_stopped

    def is_error(self) -> bool:
        return self.own.is_error()

    def try_consume_tokens(self, token_ids: list[int]) -> int:
        """How many of them were accepted."""
        for index, token_id in enumerate(token_ids):
            if not self._try_consume(token_id, self._text_of(token_id)):
                return index
        return len(token_ids)

    def consume_token(self, token_id: int) -> bool:
        """One that may not come is an error."""
        if self.try_consume_tokens([token_id]):
            return True
        self.place = None
        return self.own.consume_token(token_id)

    def consume_tokens(self, token_ids: list[int]) -> bool:
        """Those that are forced, or some of free text."""
        if (place := self._place_behind(token_ids)) is None:
            self.place = None
            return self.own.consume_tokens(token_ids)
        self._go_on(token_ids, place)
        return True

    def consume_free_text(self, token_ids: list[int]) -> None:
        """Text behind which the same may come as behind any other in this string."""
        place = self.place
        self._go_on(token_ids, place and self._places.behind_free_text(place))

    def try_end_free_text(self, token_id: int, end: bytes) -> bool:
        """Consumes a token, if it may come behind such text. Its first `"` ends the string; `end`:
        its text from there on."""
        return self._try_consume(token_id, end)

    def try_end_text(self, token_ids: list[int], token_id: int, end: bytes) -> bool:
        """Consumes text and, if it may come, a token that ends it, of which only then the same is
        true as of that text."""
        self.consume_free_text(token_ids)
        is_next = self._try_consume(token_id, end)
        if not is_next:
            self.place = None
        return is_next

    def compute_ff_tokens(self) -> list[int]:
        """Those that must come next."""
        if (place := self.place) is None:
            return self.own.compute_ff_tokens()
        if place.forced is None:
            place.forced = self.own.compute_ff_tokens()
        return place.forced

    def validate_tokens(self, token_ids: list[int]) -> int:
        """How many would be accepted; always of the same tokens."""
        if (place := self.place) is None:
            return self.own.validate_tokens(token_ids)
        if place.num_valid is None:
            place.num_valid = self.own.validate_tokens(token_ids)
        return place.num_valid

    def compute_ff_bytes(self) -> bytes:
        return self.own.compute_ff_bytes()

    def compute_bitmask(self) -> bytes:
        if (place := self.place) is None:
            return self.own.compute_bitmask()
        if place.mask is not None:
            return place.mask
        mask = self.own.compute_bitmask()
        self._places.keep_mask(place, mask)
        return mask

    def keep_mask(self, place: Place, mask: bytes) -> None:
        """See `Places`."""
        self._places.keep_mask(place, mask)

    def _try_consume(self, token_id: int, text: bytes) -> bool:
        place = self.place
        if place is None or token_id not in place.next:
            return self._ask(token_id, text)
        if (behind := place.behind(token_id)) is not None:
            self._go_on([token_id], behind)
            return True
        return place.next[token_id] is not None and self._ask(token_id, text)

    def _ask(self, token_id: int, text: bytes) -> bool:
        """Goes on behind a token, if it may come."""
        if (place := self.place) is None:
            return bool(self.own.try_consume_tokens([token_id]))
        if (behind := self._places.known_behind(place, text, token_id)) is not None:
            place.lead_to(token_id, behind)
            self._go_on([token_id], behind)
            return True
        is_next = bool(self.own.try_consume_tokens([token_id]))
        if is_next:
            self.place = self._places.behind(place, text, token_id)
        if self._places.are_shared and (is_next or not self.is_error()):
            place.lead_to(token_id, self.place if is_next else None)
        return is_next

    def _place_behind(self, token_ids: list[int]) -> Place | None:
        """Where others may come that say the same."""
        num, place = len(token_ids), self.place
        if place is None:
            return None
        if place.forced is not None and place.forced[:num] == token_ids:
            if place.behind_forced is None:
                place.num_forced = num
                text = self._text_of_all(token_ids)
                place.behind_forced = self._places.behind(place, text, token_ids[-1])
            if place.num_forced == num:
                return place.behind_forced
        return self._places.behind_text(place, self._text_of_all(token_ids), token_ids[-1])

    def _text_of(self, token_id: int) -> bytes:
        return self._texts[token_id] if token_id < len(self._texts) else b""

    def _text_of_all(self, token_ids: list[int]) -> bytes:
        """Empty where one of them is more or less than its text."""
        texts = [self._text_of(token_id) for token_id in token_ids]
        return b"".join(texts) if all(texts) else b""

    def _go_on(self, token_ids: list[int], place: Place | None) -> None:
        self._untold += token_ids
        self.place = place
        if len(self._untold) >= _MOST_UNTOLD:
            _ = self.own
