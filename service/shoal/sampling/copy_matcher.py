"""Follows a grammar with copies: llguidance's matcher outside of them, the text inside.

In the grammar the content of a copy is one token beyond the vocabulary (`COPY_TOKEN`). A matcher
that has accepted it waits for the quote that ends the copy. Where the grammar forces the text
before a copy, its tokens end with the opening quote. Where a string may be a copy or another one,
both readings are followed until one of them fails.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from shoal.sampling.copies import Copy, CopyText
from shoal.sampling.matcher import Matcher
from shoal.sampling.token_table import QUOTE, TokenTable

_MOST_READINGS = 4
"""Of one text; others are given up. What is left of the grammar still ends."""


class Reading(NamedTuple):
    """One way in which the grammar has the text."""

    matcher: Matcher
    copy: Copy | None = None
    """The string that is being copied; the matcher is behind it."""


class CopyMatcher:
    """Of one sequence. Has those methods of `LLMatcher` that a grammar's processor needs."""

    __slots__ = ("_copy_id", "_readings", "_table", "_text")

    def __init__(self, matcher: Matcher, text: CopyText) -> None:
        """`matcher`: at the grammar's beginning; it is changed."""
        self._text = text
        self._table: TokenTable = text.table
        self._copy_id = len(self._table.token_bytes) + 1
        self._readings = [Reading(matcher)]

    def is_error(self) -> bool:
        return all(reading.matcher.is_error() for reading in self._readings)

    def is_stopped(self) -> bool:
        return all(
            reading.copy is None and reading.matcher.is_stopped() for reading in self._readings
        )

    def try_consume_tokens(self, token_ids: list[int]) -> int:
        """How many of them were accepted."""
        for index, token_id in enumerate(token_ids):
            if not (found := self._behind(token_id)):
                return index
            self._readings = found[:_MOST_READINGS]
        return len(token_ids)

    def consume_token(self, token_id: int) -> bool:
        """Where it may not come, nothing may from now on: it is in error."""
        self._readings = self._behind(token_id)[:_MOST_READINGS]
        return bool(self._readings)

    def consume_tokens(self, token_ids: list[int]) -> bool:
        """Those that `compute_ff_tokens` gave."""
        ((matcher, copy),) = self._readings
        texts = [self._table.text_of(token_id) for token_id in token_ids]
        if copy is None or copy.is_whole:
            matcher.consume_tokens(token_ids)
            self._readings = self._opened(matcher, texts[-1])
        else:
            copied = copy.behind(b"".join(texts))
            self._readings = [] if copied is None else [Reading(matcher, copied)]
        return bool(self._readings)

    def compute_ff_tokens(self) -> list[int]:
        """Tokens that must come next; once they are consumed there may be more, see
        `may_force_more`. None while there are several readings."""
        if len(self._readings) != 1:
            return []
        ((matcher, copy),) = self._readings
        if copy is not None and not copy.is_whole:
            return copy.forced()
        forced = matcher.compute_ff_tokens()
        return forced[: forced.index(self._copy_id)] if self._copy_id in forced else forced

    @property
    def may_force_more(self) -> bool:
        """Behind consumed tokens that were forced: has a copy begun, or come to the text's end?"""
        copies = (reading.copy for reading in self._readings)
        return any(copy is not None and (not copy.size or copy.is_whole) for copy in copies)

    @property
    def copy(self) -> Copy | None:
        """That goes on or begins here; None also while there are several readings."""
        return self._readings[0].copy if len(self._readings) == 1 else None

    @property
    def is_known(self) -> bool:
        """May others have been at this place?"""
        return len(self._readings) == 1 and self._readings[0].matcher.is_known

    def knows(self, token_id: int) -> bool:
        """Can it be told without the library whether this token may come next?"""
        if len(self._readings) != 1:
            return False
        ((matcher, copy),) = self._readings
        text = self._table.text_of(token_id)
        if copy is not None and QUOTE not in text:
            return True
        return QUOTE not in text[1:-1] and matcher.knows(token_id)

    def ahead(self) -> "CopyMatcher":
        """Another one to look ahead with, as long as this one stays here."""
        ahead = CopyMatcher.__new__(CopyMatcher)
        ahead._text, ahead._table, ahead._copy_id = self._text, self._table, self._copy_id
        ahead._readings = [Reading(matcher.ahead(), copy) for matcher, copy in self._readings]
        return ahead

    def go_on(self, copy: Copy) -> None:
        """With a copy that begins or goes on as this one; of a single reading."""
        self._readings = [Reading(self._readings[0].matcher, copy)]

    def compute_bitmask(self) -> bytes:
        """As llguidance's: a bit for each token, and beyond them for the end and for copies."""
        allowed = np.zeros((self._copy_id // 32 + 1) * 32, bool)
        for matcher, copy in self._readings:
            if copy is not None:
                allowed[list(copy.text.continuations(copy.places))] = True
            if copy is not None and not copy.may_end:
                continue
            if matcher.compute_ff_tokens():  # its mask has the first of them only
                allowed[self._table.beginnings(matcher.compute_ff_bytes())] = True
            else:
                mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
                allowed |= np.unpackbits(mask, bitorder="little").astype(bool)
        for token_id, text in self._table.quoted.items():
            if not allowed[token_id]:
                allowed[token_id] = any(self._read(reading, text) for reading in self._readings)
        return np.packbits(allowed, bitorder="little").tobytes()

    def _behind(self, token_id: int) -> list[Reading]:
        """The readings with this token."""
        text = self._table.text_of(token_id)
        if len(self._readings) == 1 and token_id not in self._table.quoted:
            ((matcher, copy),) = self._readings
            if copy is None:  # no need for another matcher
                is_next = matcher.try_consume_tokens([token_id])
                return self._opened(matcher, text) if is_next else []
            if text and text != QUOTE:
                longer = copy.behind(text)
                return [] if longer is None else [Reading(matcher, longer)]
        if len(self._readings) == 1 and text[:1] == QUOTE and QUOTE not in text[1:-1]:
            ((matcher, copy),) = self._readings
            if copy is not None and copy.may_end:  # no need either: it ends the copy
                is_next = matcher.try_consume_tokens([token_id])
                return self._opened(matcher, text[1:]) if is_next else []
        if text:
            return [found for each in self._readings for found in self._read(each, text)]
        outside = [matcher for matcher, copy in self._readings if copy is None]
        advanced = [_advanced(matcher, [token_id]) for matcher in outside]
        return [Reading(matcher) for matcher in advanced if matcher is not None]

    def _read(self, reading: Reading, text: bytes) -> list[Reading]:
        """All readings of further text. The matchers stay as they are."""
        matcher, copy = reading
        if copy is None:
            return self._read_outside(matcher, text)
        if (longer := copy.behind(text)) is not None:
            return [Reading(matcher, longer)]
        for at in _quotes(text):
            content = copy.behind(text[:at]) if at else copy
            if content is not None and content.may_end:
                return self._read_outside(matcher, text[at:])
        return []

    def _read_outside(self, matcher: Matcher, text: bytes) -> list[Reading]:
        found = []
        for at in _quotes(text[:-1]):  # a copy may begin there
            before = self._table.spell(text[: at + 1])
            if before and (inside := _advanced(matcher, [*before, self._copy_id])) is not None:
                found += self._read(Reading(inside, self._text.beginning), text[at + 1 :])
        whole = self._table.spell(text)
        if whole and (outside := _advanced(matcher, whole)) is not None:
            found += self._opened(outside, text)
        return found

    def _opened(self, matcher: Matcher, text: bytes) -> list[Reading]:
        """Readings behind this text: its last quote may begin a copy."""
        if text[-1:] != QUOTE or (inside := _advanced(matcher, [self._copy_id])) is None:
            return [Reading(matcher)]
        copying = Reading(inside, self._text.beginning)
        is_only = matcher.compute_ff_tokens()[:1] == [self._copy_id]
        return [copying] if is_only else [copying, Reading(matcher)]


def forced_runs(matcher: Matcher | CopyMatcher, num_token_ids: int) -> Iterator[list[int]]:
    """Tokens that must come next, in runs that are each inside a copy or outside. The matcher has
    accepted them then. A grammar may name ids that no token has: not those."""
    while not matcher.is_stopped() and (forced := matcher.compute_ff_tokens()):
        if max(forced) >= num_token_ids:
            forced = list(takewhile(lambda token_id: token_id < num_token_ids, forced))
            if not forced:
                return
        matcher.consume_tokens(forced)
        yield forced
        if not (isinstance(matcher, CopyMatcher) and matcher.may_force_more):
            return


def _advanced(matcher: Matcher, token_ids: list[int]) -> Matcher | None:
    """Another one behind these tokens, if they may come."""
    if matcher.is_stopped():
        return None
    found = matcher.deep_copy()
    return found if found.try_consume_tokens(token_ids) == len(token_ids) else None


def _quotes(text: bytes) -> list[int]:
    """Where they are."""
    return [at for at, code in enumerate(text) if code == QUOTE[0]]
