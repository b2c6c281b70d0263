"""What a sequence is likely to say next, by what other answers under its grammar said.

Its tokens are guessed one after the other, each followed by those that the grammar forces behind
it, until the chance that all are right is small. A guess goes along what the grammar is known to
allow; the library is not asked.
"""

from shoal.sampling.answers import Answer
from shoal.sampling.copies import Copy
from shoal.sampling.copy_matcher import CopyMatcher, forced_runs
from shoal.sampling.matcher import Matcher
from shoal.sampling.memories import Memory

_LEAST_CHANCE = 0.25
"""Of the last token: what it costs is about so much of a step."""
_PROBABLE = 0.5
_OPENS = (b"{", b",", b"[")
"""What stands before the name of a property, or before an item."""


class Expecting:
    """Of one sequence: learns from what it says, and guesses how it goes on."""

    def __init__(self, memory: Memory, num_token_ids: int) -> None:
        self._memory = memory
        self._num_token_ids = num_token_ids
        self._answer = Answer(memory.table)
        self._copy: Copy | None = None  # that goes on
        self._key = b""  # text before it, with the name of its property
        self._used: list[tuple[int, int]] = []  # from where to where others were

    def heard(self, token_ids: list[int], copy: Copy | None, *, is_forced: bool) -> None:
        """What was said. `copy`: the one that goes on or begins behind these tokens. `is_forced`:
        nobody needs to guess them."""
        goes_on = copy is not None and copy.size > 0
        if self._copy is not None and not goes_on:
            self._memory.habits.learn(self._key, self._copy, self._used)
            self._used.append(_span(self._copy))
        self._answer.say(token_ids, in_string=goes_on, learns=not is_forced)
        if copy is not None and not copy.size:
            self._key = _key_of(self._answer.outside, copy)
        self._copy = copy if goes_on else None

    def expected(self, matcher: Matcher | CopyMatcher | None, most: int) -> list[int]:
        """At most so many tokens. `matcher`: behind what was heard, to go ahead with; None where
        the grammar is not to be looked at."""
        ahead = _Ahead(self._answer.ahead(), self._key, [*self._used])
        if matcher is not None:
            self._take_forced(ahead, matcher)
        while len(ahead.draft) < most:
            if isinstance(matcher, CopyMatcher) and (copy := matcher.copy) is not None:
                if (copy := self._copied(ahead, copy, most)) is None:
                    break
                matcher.go_on(copy)
                self._take_forced(ahead, matcher)
            guess = ahead.answer.guess()
            if guess is None or not ahead.is_probable(guess[1]):
                break
            token_id, _ = guess
            if matcher is not None and not matcher.knows(token_id):
                if isinstance(matcher, CopyMatcher):
                    ahead.draft.append(token_id)
                    break
                matcher = None
            if matcher is not None and not matcher.try_consume_tokens([token_id]):
                break
            ahead.draft.append(token_id)
            ahead.answer.say([token_id], in_string=False, learns=False)
            if matcher is not None:
                self._take_forced(ahead, matcher)
        return ahead.draft[:most]

    def _take_forced(self, ahead: "_Ahead", matcher: Matcher | CopyMatcher) -> None:
        for run in forced_runs(matcher, self._num_token_ids):
            ahead.draft += run
            copy = matcher.copy if isinstance(matcher, CopyMatcher) else None
            ahead.answer.say(run, in_string=copy is not None and copy.size > 0, learns=False)

    def _copied(self, ahead: "_Ahead", copy: Copy, most: int) -> Copy | None:
        """Adds the words of a copy that begins or goes on, up to where it is likely to end. None
        where that is not known, or beyond."""
        habits, text, draft = self._memory.habits, copy.text, ahead.draft
        place, start = int(copy.places[0]), int(copy.places[0]) - copy.size
        if not copy.size:
            ahead.key = _key_of(ahead.answer.outside, copy)
            begins = habits.beginning(ahead.key, text, ahead.used)
            said = ahead.answer.guess()
            if said is not None and (begins is None or said[1] > begins[1]):
                if (behind := copy.behind(text.table.text_of(said[0]))) is None:
                    return None
                begins = int(behind.places[0]) - behind.size, said[1]
            if begins is None or not ahead.is_probable(begins[1]):
                return None
            place = start = begins[0]
        for token_id in text.spelled(start, place):
            if place > start and text.may_end_at(place):
                ends = habits.ending(ahead.key, text, place)
                if ends >= _PROBABLE:
                    break
                if not ahead.is_probable(1 - ends):
                    return None
            draft.append(token_id)
            place += len(text.table.token_bytes[token_id])
            if len(draft) >= most:
                return None
        else:
            if place < len(text.data):  # more is encoded once it is there
                return None
            ends = 1.0
        if not ahead.is_probable(ends):
            return None
        ahead.used.append((start, place))
        ahead.answer.end_string()
        return Copy(text, [place], place - start)


class _Ahead:
    """How a sequence may go on."""

    __slots__ = ("answer", "chance", "draft", "key", "used")

    def __init__(self, answer: Answer, key: bytes, used: list[tuple[int, int]]) -> None:
        self.answer = answer
        self.key, self.used = key, used
        self.draft: list[int] = []
        self.chance = 1.0

    def is_probable(self, share: float) -> bool:
        """With one more token that is right so often?"""
        self.chance *= share
        return self.chance >= _LEAST_CHANCE


def _span(copy: Copy) -> tuple[int, int]:
    end = int(copy.places[0])
    return end - copy.size, end


def _key_of(outside: list[int], copy: Copy) -> bytes:
    """The text before a copy, from the last opening sign or comma on."""
    key, text_of = b"", copy.text.table.text_of
    for token_id in reversed(outside):
        key = text_of(token_id) + key if token_id >= 0 else key
        if (opened := max(map(key.rfind, _OPENS))) >= 0:
            return key[opened + 1 :]
    return key
