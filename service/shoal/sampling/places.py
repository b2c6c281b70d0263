"""What a grammar's library said at each place that sequences have been at.

What may follow depends on the grammar and the tokens so far alone. Where a grammar sees nothing
but text, the text decides, and what it forces looks at the last token too: places that differ in
other tokens are one. Behind any text of a string that is free (`free_text.py`) they are one as
well.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakSet, WeakValueDictionary

from shoal.sampling.arrays import UInt32

_MOST_PLACES = 1 << 14
"""Of all grammars of a model; some 10 MB."""
_MOST_MASK_BYTES = 8 << 20
"""Of all masks that are kept."""
_QUOTE = b'"'
_STRING = re.compile(rb'(?<!\\)"((?:[^"\\]|\\.)*)$', re.DOTALL)
"""One that has not ended."""
_MOST_TEXT = 200
"""Bytes since a stretch began; behind more the next one begins."""


class End(NamedTuple):
    is_stopped: bool
    is_error: bool


class Arrival(NamedTuple):
    """What a sequence's grammar finds at a place, see `processors/grammar.py`."""

    is_free: bool
    forced: tuple[int, ...]
    is_over: bool
    will_be_free: bool
    string: str | None
    """What there is of the string, in free text, where it is known."""
    waits: int
    stays: int
    """See `InText`."""
    behind: "Place | None"
    """Behind what is forced, and behind free text where it changes no more; None: here."""


class Way(NamedTuple):
    """Along places that are known."""

    token_ids: list[int]
    """Accepted, but for those behind steady free text."""
    place: "Place"
    is_free: bool


def string_in(text: bytes) -> str | None:
    """What there is of the string with which JSON's text ends; None where that is not known."""
    found = _STRING.search(text)
    return found and content_of(found[1])


def content_of(spelled: bytes) -> str | None:
    """Of a string, as JSON spells it without its quotes; None where it does not end there."""
    try:
        content: str = json.loads(_QUOTE + spelled + _QUOTE)
    except ValueError:
        return None
    return content


class _Stretch:
    """Places that lie behind one of them, by the text in between."""

    __slots__ = ("behind", "free")

    def __init__(self) -> None:
        self.behind: WeakValueDictionary[tuple[bytes, int], Place] = WeakValueDictionary()
        """[text, last token] held by the places before"""
        self.free: dict[bytes, Place] = {}
        """[text up to a quote] behind free text that began there"""


class Place:
    """Behind some tokens. None: nobody has asked."""

    __slots__ = (
        "__weakref__", "_allowed", "arrival", "behind_forced", "end", "forced", "mask", "next",
        "num_forced", "num_valid", "stretch", "text",
    )  # fmt: skip

    def __init__(self, stretch: _Stretch | None = None, text: bytes = b"") -> None:
        """`stretch`: None where tokens decide, not their text."""
        self.stretch, self.text = stretch, text
        self.next: dict[int, Place | None] = {}
        """[token] None for one that may not come."""
        self.end: End | None = None
        self.forced: list[int] | None = None
        self.num_forced = 0  # that sequences took
        self.behind_forced: Place | None = None
        self.num_valid: int | None = None
        self.mask: bytes | None = None
        self.arrival: Arrival | None = None
        self._allowed: tuple[Sequence[int], UInt32] | None = None

    @property
    def string(self) -> str | None:
        """What there is of a string in which it lies; None where that is not known."""
        return string_in(self.text)

    def allowed_for(self, end_ids: Sequence[int]) -> UInt32 | None:
        """The mask of those whose end tokens these are."""
        kept = self._allowed
        return kept[1] if kept is not None and kept[0] == end_ids else None

    def keep_allowed(self, end_ids: Sequence[int], mask: UInt32) -> None:
        """`mask`, as they have it."""
        self._allowed = end_ids, mask

    def forget_mask(self) -> None:
        self.mask = self._allowed = None


class Places:
    """Of sequences that share what they find, under any grammar of a model."""

    def __init__(self, most: int = _MOST_PLACES, most_mask_bytes: int = _MOST_MASK_BYTES) -> None:
        self._most = most
        self._num = 0
        self._beginnings: WeakSet[Place] = WeakSet()
        self._most_mask_bytes = most_mask_bytes
        self._mask_bytes = 0
        self._masked: WeakSet[Place] = WeakSet()

    def begin(self, *, by_text: bool) -> Place:
        """At a grammar's beginning. `by_text`: does text alone decide?"""
        beginning = Place(_Stretch() if by_text else None)
        self._beginnings.add(beginning)
        return beginning

    def known_behind(self, place: Place, text: bytes, last_id: int) -> Place | None:
        """Behind tokens of this text, some if it is known."""
        if not text or place.stretch is None:
            return None
        return place.stretch.behind.get((place.text + text, last_id))

    def behind(self, place: Place, text: bytes, last_id: int) -> Place:
        """Behind tokens of this text, which may come; it is empty where they have none."""
        if place.stretch is None:
            return self._new(None)
        if not text:
            return self._new(_Stretch())
        text = place.text + text
        key = (text, last_id)
        if (found := place.stretch.behind.get(key)) is None:
            is_long = len(text) > _MOST_TEXT
            found = self._new(_Stretch()) if is_long else self._new(place.stretch, text)
            place.stretch.behind[key] = found
        return found

    def behind_text(self, place: Place, text: bytes, last_id: int) -> Place | None:
        """As `behind`; None for a place at which others are not expected."""
        if place.stretch is None or not text or len(place.text) + len(text) > _MOST_TEXT:
            return None
        return self.behind(place, text, last_id)

    def behind_free_text(self, place: Place) -> Place | None:
        """Behind any such text of the string that the place lies in; None where text does not
        decide."""
        if (stretch := place.stretch) is None:
            return None
        text = place.text[: place.text.rfind(_QUOTE) + 1]
        if (found := stretch.free.get(text)) is None:
            found = stretch.free[text] = self._new(_Stretch())
        return found

    def keep_mask(self, place: Place, mask: bytes) -> None:
        """What may come there. All are forgotten where they are too large together."""
        if self._mask_bytes + len(mask) > self._most_mask_bytes:
            for masked in self._masked:
                masked.forget_mask()
            self._masked.clear()
            self._mask_bytes = 0
        self._mask_bytes += len(mask)
        self._masked.add(place)
        place.mask = mask

    def _new(self, stretch: _Stretch | None, text: bytes = b"") -> Place:
        """One more. All are forgotten where they are too many."""
        if self._num == self._most:
            self._num = 0
            for beginning in self._beginnings:
                beginning.next.clear()
                beginning.behind_forced = beginning.arrival = None
                if beginning.stretch is not None:
                    beginning.stretch.free.clear()
        self._num += 1
        return Place(stretch, text)
