"""The grammar of one sequence: which tokens may come next, which must, and when it is over."""

from collections import deque
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, cast

from shoal.sampling.allow_mask import mask_of_one, mask_of_tokens
from shoal.sampling.arrays import UInt32
from shoal.sampling.copy_matcher import CopyMatcher, forced_runs
from shoal.sampling.expecting import Expecting
from shoal.sampling.free_text import FreeText
from shoal.sampling.in_text import InText, text_of
from shoal.sampling.lead_text import LeadText
from shoal.sampling.matcher import Matcher
from shoal.sampling.memories import Memory
from shoal.sampling.places import NO_TEXT, Arrival, Place, Way
from shoal.sampling.processors.base import LogitsProcessor

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MANY_REFUSALS = 7
_MOST_UNTOLD = 64
"""Tokens of free text that a matcher is told of at once."""


class Grammar(LogitsProcessor):
    """Follows llguidance's matcher. Whether forced tokens are taken at once or sampled one by one,
    they are the same: those that were forced when the token before them was accepted."""

    def __init__(
        self,
        matcher: Matcher | CopyMatcher,
        end_ids: tuple[int, ...],
        num_token_ids: int,
        *,
        takes: bool,
        rejects: bool = False,
        ambiguous_ids: Set[int] = frozenset(),
        free_text: FreeText | LeadText | None = None,
        memory: Memory | None = None,
    ) -> None:
        """`takes`: may `take_forced` be used, or must each token be sampled? `rejects`: is a token
        drawn first and `admits` asked? `ambiguous_ids`: see `Grammars`. `free_text`: where the
        grammar may have some. `memory`: None where nothing is learned."""
        self._matcher = matcher
        self.end_ids = tuple(i for i in end_ids if 0 <= i < num_token_ids)
        self.masks_first = not (takes and rejects)
        """Is the mask wanted before each token is drawn? Whoever reports needs it."""
        self.num_refused = 0
        """Tokens that `admits` refused at this place."""
        self._refusals = 0  # that are expected outside of free text
        self.is_over = False
        """Nothing is left to be sampled: the grammar is complete but for forced tokens, or
        failed."""
        self._num_token_ids = num_token_ids
        self._takes = takes
        self._ambiguous_ids = ambiguous_ids
        self._has_consumed = False  # the token that will be accepted next
        self._forced: deque[int] = deque()  # the matcher has accepted them already
        self._mask: UInt32 | None = None
        self._free_text, self._lead = text_of(free_text, num_token_ids, self.end_ids)
        self._has_free_text = bool(self._free_text.probe)
        is_alone = free_text is not None and not (self._has_free_text or self._lead)
        self._has_places = not (is_alone or self._lead or isinstance(matcher, CopyMatcher))
        self.num_chars = self._free_text.num_chars
        """[num_token_ids] of plain tokens in free text, see `FreeText`."""
        self.is_free = False
        """Is this free text?"""
        self._will_be_free = False  # behind the forced tokens
        self.text = InText(self._free_text)
        """In free text."""
        self._take: Callable[[], tuple[Way | None, list[int]]] | None = None  # while it is left
        self._expecting = memory and Expecting(memory, num_token_ids)
        self._force()

    @property
    def matcher(self) -> "LLMatcher":
        """Behind the tokens accepted so far, and the forced ones. Of a grammar without copies."""
        self.catch_up()
        return cast(Matcher, self._told).own  # a mask with copies is computed here only

    @property
    def _told(self) -> Matcher | CopyMatcher:
        if self.text.untold:
            self._tell()
        return self._matcher

    @property
    def failed(self) -> bool:
        """It cannot go on: a limit of the grammar was reached, or a token was not allowed."""
        self.catch_up()
        return self.is_over and self._told.is_error()

    @property
    def ended(self) -> bool:
        """Nothing may follow."""
        return self.is_over and not self._forced

    @property
    def needs_mask(self) -> bool:
        """Would `allow_mask` have to compute it, and could others beside the step?"""
        has_copies = isinstance(self._matcher, CopyMatcher)
        is_known = self._mask is not None or self._take is not None  # it is left
        return not (is_known or self._forced or self.is_over or has_copies)

    @property
    def goes_on(self) -> bool:
        """Is the next token one to be sampled?"""
        return not (self._forced or self.is_over)

    def admits(self, token_id: int) -> bool:
        """May this token come next, or is it none (below zero)? What the mask says, mostly without
        it. One that may has to be accepted then."""
        self.catch_up()
        if token_id < 0 or (self.is_free and self.num_chars[token_id]):
            return True
        if self.is_free and self.is_never_free(token_id):
            is_allowed = False
        elif self._mask is None and not (
            self._forced or token_id in self.end_ids or token_id in self._ambiguous_ids
        ):
            is_allowed = self._has_consumed = self._try_consume(token_id)
        else:
            is_allowed = bool(self.allow_mask[token_id >> 5] >> (token_id & 31) & 1)
        self.num_refused += not is_allowed
        if not self.is_free:
            self._refusals = 0 if is_allowed else _MANY_REFUSALS
        return is_allowed

    def expect_refusal(self) -> None:
        """Computes the mask where it is likely to be wanted, whatever is drawn."""
        if self._refusals > 0 and self._mask is None and not self.is_free:
            self._refusals -= 1
            _ = self.allow_mask

    def is_never_free(self, token_id: int) -> bool:
        """Is this a token that may not come in free text, whatever it is?"""
        return self._has_free_text and (
            token_id in self._free_text.never or token_id in self.end_ids
        )

    @property
    def may_be_left(self) -> bool:
        """Need it not be told at once which tokens follow, as long as they change nothing new?
        Where masks come first its own must be known."""
        return (
            self._takes
            and self._take is None
            and self._expecting is None
            and not (self._forced or self.is_over)
            and not (self.masks_first and self._mask is None)
            and (self.is_free or self.is_followed)
        )

    @property
    def is_followed(self) -> bool:
        """May others come to its places?"""
        return self._has_places and cast(Matcher, self._matcher).is_followed

    def leave(self, take: Callable[[], tuple[Way | None, list[int]]]) -> int:
        """Tokens need not be told from now on: none that lead to places where others found
        something; and no plain one in free text, up to the one that has more characters than it
        returns; below 0: none of them ever. As long its mask, if it is known, stays what it is.
        `take` gives them once they are needed; then it is left no longer."""
        self._take = take
        return self.text.until_look(is_mask_known=self._mask is not None)

    def catch_up(self) -> None:
        """Accepts what it was not told while it was left."""
        if self._take is None:
            return
        take, self._take = self._take, None
        way, untold = take()
        if way is not None:
            cast(Matcher, self._matcher).go(way.token_ids, way.place)
            self.is_free = way.is_free
            self._look_up_mask()
        if untold:
            self._say(untold)

    @property
    def place(self) -> Place | None:
        """Where others may have been, or will be; None also while it has untold text."""
        return None if self.text.untold else self._place_as_here

    @property
    def _place_as_here(self) -> Place | None:
        """A place where the same may follow."""
        if not (self._has_places and self.text.is_as_at_place):
            return None
        return cast(Matcher, self._matcher).place

    def behind_free_text(self, place: Place) -> Place | None:
        """Where steady text leads from there; None where that is not known."""
        return cast(Matcher, self._matcher).behind_free_text(place)

    def accept(self, token_id: int) -> None:
        self.catch_up()
        self.num_refused = 0
        if self.is_free and self.num_chars[token_id]:
            self._hear([token_id])
            if self.text.waits >= 0:
                self._say([token_id])
            return
        self._mask = None
        if self._has_consumed:
            self._has_consumed = False
            self._go_on_behind(token_id)
        elif self._forced:
            expected = self._forced.popleft()
            assert token_id == expected, "only the forced token was allowed"
            self.is_free = self._will_be_free and not self._forced
            self._look_up_mask()
        else:
            if token_id in self.end_ids:
                self._told.consume_token(self._num_token_ids)
            elif not self._try_consume(token_id):
                self._matcher.consume_token(token_id)
            self._go_on_behind(token_id)

    def take_forced(self, most: int) -> list[int]:
        """The tokens that must come next, at most so many; the sequence has them now."""
        if not self._takes or not self._forced:
            return []
        self._mask = None
        taken = [self._forced.popleft() for _ in range(min(most, len(self._forced)))]
        self.is_free = self._will_be_free and not self._forced
        self._look_up_mask()
        return taken

    def expect_nothing(self) -> None:
        """From now on: neither is `expected` asked, nor learned for others."""
        self._expecting = None

    def expected(self, most: int) -> list[int]:
        """Tokens that are likely to come next, at most so many; none where nothing is known."""
        if self._expecting is None or self._forced or self.is_over:
            return []
        is_known = self._matcher.is_known and not self.text.untold
        return self._expecting.expected(self._matcher.ahead() if is_known else None, most)

    @property
    def known_mask(self) -> UInt32 | None:
        """`allow_mask`, where nobody needs to compute it."""
        return self.allow_mask if self._forced else self._mask

    def keep_mask(self) -> None:
        """Computes `allow_mask` where others come too, who need not."""
        self.catch_up()
        if self._place_as_here is not None:
            _ = self.allow_mask

    @property
    def allow_mask(self) -> UInt32:
        self.catch_up()
        if self._mask is None:
            if self._forced:
                self._mask = mask_of_one(self._forced[0], self._num_token_ids)
            elif (place := self._place_as_here) is None or not self._take_mask_of(place):
                self._keep_mask(self._told.compute_bitmask(), place)
        assert self._mask is not None, "it was given one"
        return self._mask

    def set_mask(self, computed: UInt32) -> None:
        """What the matcher computed [words]."""
        self._keep_mask(computed.tobytes(), self.place)

    def _force(self) -> None:
        for run in forced_runs(self._matcher, self._num_token_ids):
            self._forced.extend(run)
            self._hear(run, is_forced=True)
        self.is_over = self._matcher.is_stopped()

    def _hear(self, token_ids: list[int], *, is_forced: bool = False) -> None:
        """These are accepted."""
        if self._expecting is not None:
            matcher = self._matcher
            copy = matcher.copy if isinstance(matcher, CopyMatcher) else None
            self._expecting.heard(token_ids, copy, is_forced=is_forced and matcher.is_known)

    def _tell(self) -> None:
        """The matcher accepts what it was not asked about."""
        self._matcher.consume_tokens(self.text.tell())
        self.is_over = self._matcher.is_stopped()

    def _say(self, token_ids: list[int]) -> None:
        """More text, that is not steady yet."""
        self.text.add(token_ids)
        if self.text.stays < 0:
            self._mask = None
        if self.text.waits < 0:
            self._become_steady()
        elif len(self.text.untold) >= _MOST_UNTOLD:
            self._tell()

    def _become_steady(self) -> None:
        """From here on the matcher is not told of free text."""
        cast(Matcher, self._matcher).consume_free_text(self.text.tell())
        self._look_up_mask()

    def _try_consume(self, token_id: int) -> bool:
        """The matcher accepts a token, if it may come."""
        end = self._free_text.ends.get(token_id) if self.is_free else None
        if end is not None:
            matcher = cast(Matcher, self._matcher)
            if self.text.waits < 0:
                return matcher.try_end_free_text(token_id, end.text)
            if self._free_text.is_unlisted(self.text.untold, end.head):
                return matcher.try_end_text(self.text.tell(), token_id, end.text)
        return bool(self._told.try_consume_tokens([token_id]))

    def _keep_mask(self, computed: bytes, place: Place | None) -> None:
        """`place`: where it holds too."""
        self._mask = mask_of_tokens(computed, self._num_token_ids, self.end_ids)
        if self.is_free:
            self.text.look_ahead()
        if place is not None:
            if place.mask is None:
                cast(Matcher, self._matcher).keep_mask(place, computed)
            place.keep_allowed(self.end_ids, self._mask)

    def _look_up_mask(self) -> None:
        """At a place where others may have been."""
        if self._forced or self.is_over or (place := self.place) is None:
            return
        self._mask = None
        self._take_mask_of(place)

    def _take_mask_of(self, place: Place) -> bool:
        """Where it has none. Is it known?"""
        if (mask := place.allowed_for(self.end_ids)) is not None:
            self._mask = mask
            if self.is_free:
                self.text.look_ahead()
        elif place.mask is not None:
            self._keep_mask(place.mask, place)
        return self._mask is not None

    def _go_on_behind(self, last_id: int) -> None:
        """The matcher has accepted this token: is it in free text, or what must come next?"""
        self._hear([last_id])
        self.text.hear(last_id)
        if self._lead is not None:
            self._force()
            self.is_free = self._lead.is_free_behind(last_id) and not self.is_over
        else:
            place = self.place
            if place is None or place.arrival is None or self._expecting is not None:
                self._find_out(last_id)
                self._leave_word(place)
            else:
                self._arrive(place.arrival)
        self._look_up_mask()

    def _find_out(self, last_id: int) -> None:
        end = self._free_text.ends.get(last_id) if self.is_free else None
        is_outside = end is not None and end.is_outside
        self.is_free = not is_outside and self._is_in_free_text()
        if not self.is_free:  # there nothing is forced and none ends
            self._force()
            if self._forced:
                self.text.hear_unknown()
            goes_on = bool(self._forced) and not self.is_over
            self._will_be_free = goes_on and self._is_in_free_text()

    def _leave_word(self, place: Place | None) -> None:
        """For the next sequence at this place, where this one found out."""
        matcher = cast(Matcher, self._matcher)
        if place is not None and matcher.is_followed:
            will_be_free = bool(self._forced) and self._will_be_free
            behind = None if matcher.place is place else matcher.place
            text = self.text.known if self.is_free or will_be_free else NO_TEXT
            arrival = Arrival(
                self.is_free, tuple(self._forced), self.is_over, will_be_free, text, behind
            )
            matcher.leave_word(place, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        """As an earlier one did."""
        self.is_free, self.is_over = arrival.is_free, arrival.is_over
        self._will_be_free = arrival.will_be_free
        self._forced.extend(arrival.forced)
        cast(Matcher, self._matcher).go([*arrival.forced], arrival.behind)
        self.text.arrive(arrival.text)

    def _is_in_free_text(self) -> bool:
        """The matcher, which has been told everything."""
        probe = self._free_text.probe
        if not self._has_free_text or isinstance(matcher := self._told, CopyMatcher):
            return False
        is_free = matcher.validate_tokens(probe) == len(probe)
        if is_free:
            if (place := self.place) is None:
                self.text.begin_unknown()
            else:
                self.text.begin(place.string)
            if self.text.waits < 0:
                self._become_steady()
        return is_free
