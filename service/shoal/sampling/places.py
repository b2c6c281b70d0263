"""What a grammar's library said at each place that sequences have been at.

What may follow depends on the grammar and the tokens so far alone. Where a grammar sees nothing
but text, the text decides, but the tokens of text that it forces depend on the last one too: places
that differ in other tokens are one, and in any where it forces none. Behind any text of a string
that is free (`free_text.py`) they are one as well: the steady place of that string.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple
from weakref import ReferenceType, WeakSet, WeakValueDictionary, ref

from shoal.sampling.arrays import UInt32

_MOST_PLACES = 1 << 14
"""Of all grammars of a model; some 10 MB."""
_MOST_MASK_BYTES = 8 << 20
"""Of all masks that are kept."""
_QUOTE, _ESCAPED = b'"', b'\\"'
_STRING = re.compile(rb'(?<!\\)"((?:[^"\\]|\\.)*)$', re.DOTALL)
"""One that has not ended."""
_TAIL = rb"[\x80-\xbf]"
_STEADY = re.compile(
    rb"""(?:[ !#-\[\]-~]|\\["\\/bfnrt]|[\xc2-\xdf]%(t)s|\xe0[\xa0-\xbf]%(t)s
    |[\xe1-\xec\xee\xef]%(t)s{2}|\xed[\x80-\x9f]%(t)s|\xf0[\x90-\xbf]%(t)s{2}
    |[\xf1-\xf3]%(t)s{3}|\xf4[\x80-\x8f]%(t)s{2})*""".replace(b"\n    ", b"")
    % {b"t": _TAIL},
)
"""Whole characters and escapes."""
_MOST_TEXT = 200
"""Bytes since a stretch began; behind more the next one begins."""


class KnownText(NamedTuple):
    """See `InText`."""

    string: str | None
    waits: int
    stays: int


NO_TEXT = KnownText(None, -1, -1)


class Arrival(NamedTuple):
    """What a sequence's grammar finds at a place, see `processors/grammar.py`."""

    is_free: bool
    forced: tuple[int, ...]
    is_over: bool
    will_be_free: bool
    text: KnownText
    """In free text."""
    behind: "Place | None"
    """Behind what is forced, and behind free text where it changes no more; None: here."""


class Way(NamedTuple):
    """Along places that are known."""

    token_ids: list[int]
    """Accepted, but for those behind steady free text."""
    place: "Place"
    is_free: bool


def string_in(text: bytes) -> str | None:
    """What there is of the string in which JSON's text ends; None where that is not known."""
    if text.endswith(_QUOTE) and not text.endswith(_ESCAPED):
        return ""
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

    __slots__ = ("behind", "free", "steady")

    def __init__(self) -> None:
        self.steady: ReferenceType[Place] | None = None
        """Where it begins in free text."""
        self.behind: WeakValueDictionary[bytes | tuple[bytes, int], Place] | None = None
        """[text, last token] held by the places before; [text] where no text is forced"""
        self.free: dict[bytes, Place] = {}
        """[text up to a quote] behind free text that began there"""


class Place:
    """Behind some tokens. None: nobody has asked."""

    __slots__ = (
        "__weakref__", "_allowed", "arrival", "behind_forced", "forced", "is_stopped", "mask",
        "next", "num_forced", "num_valid", "stretch", "text",
    )  # fmt: skip

    def __init__(self, stretch: _Stretch | None = None, text: bytes = b"") -> None:
        """`stretch`: None where tokens decide, not their text."""
        self.stretch, self.text = stretch, text
        self.next: dict[int, Place | None] = {}
        """[token] None for one that may not come; BACK for the steady place of its string."""
        self.is_stopped: bool | None = None
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

    def behind(self, token_id: int) -> "Place | None":
        """None where nobody knows, or it may not come."""
        found = self.next.get(token_id)
        if found is not BACK:
            return found
        return self._steady

    def lead_to(self, token_id: int, place: "Place | None") -> None:
        is_back = place is not None and place is self._steady
        self.next[token_id] = BACK if is_back else place

    @property
    def _steady(self) -> "Place | None":
        if self.stretch is None or self.stretch.steady is None:
            return None
        return self.stretch.steady()

    def allowed_for(self, end_ids: Sequence[int]) -> UInt32 | None:
        """The mask of those whose end tokens these are."""
        kept = self._allowed
        return kept[1] if kept is not None and kept[0] == end_ids else None

    def keep_allowed(self, end_ids: Sequence[int], mask: UInt32) -> None:
        """`mask`, as they have it."""
        self._allowed = end_ids, mask

    def forget_mask(self) -> None:
        self.mask = self._allowed = None


BACK = Place()
"""In place of one that it must not keep alive."""
_AT_STEADY = Arrival(
    is_free=True, forced=(), is_over=False, will_be_free=False, text=NO_TEXT, behind=None
)


def _text_behind(place: Place, text: bytes) -> bytes:
    """Since the stretch began, or since its last whole character in free text."""
    text = place.text + text
    if place.stretch is None or place.stretch.steady is None:
        return text
    match = _STEADY.match(text)
    return text[match.end() :] if match else text


class Places:
    """Of sequences that share what they find, under any grammar of a model."""

    def __init__(
        self,
        most: int = _MOST_PLACES,
        most_mask_bytes: int = _MOST_MASK_BYTES,
        *,
        are_shared: bool = True,
    ) -> None:
        """`are_shared`: are they those of more than one sequence?"""
        self.are_shared = are_shared
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
        if not (text and self.are_shared) or (stretch := place.stretch) is None:
            return None
        text = _text_behind(place, text)
        if not text and stretch.steady is not None:
            return stretch.steady()
        if (known := stretch.behind) is None:
            return None
        return known.get(text) or known.get((text, last_id))

    def forces_nothing(self, place: Place) -> None:
        """Whatever the last token: the place is that behind others too."""
        if place.text and place.stretch is not None and place.stretch.behind is not None:
            place.stretch.behind.setdefault(place.text, place)

    def behind(self, place: Place, text: bytes, last_id: int) -> Place:
        """Behind tokens of this text, which may come; it is empty where they have none."""
        if (stretch := place.stretch) is None:
            return self._new(None)
        if not text:
            return self._new(_Stretch())
        if not (text := _text_behind(place, text)):
            return self._steady(stretch)
        if not self.are_shared:
            return self._new_behind(stretch, text)
        if stretch.behind is None:
            stretch.behind = WeakValueDictionary()
        key = text, last_id
        if (found := stretch.behind.get(key)) is None:
            found = stretch.behind[key] = self._new_behind(stretch, text)
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
        if not self.are_shared:
            return self._steady(_Stretch())
        text = place.text[: place.text.rfind(_QUOTE) + 1]
        if (found := stretch.free.get(text)) is None:
            found = stretch.free[text] = self._steady(_Stretch())
        return found

    def keep_mask(self, place: Place, mask: bytes) -> None:
        """What may come there. All are forgotten where they are too large together."""
        if self.are_shared:
            if self._mask_bytes + len(mask) > self._most_mask_bytes:
                for masked in self._masked:
                    masked.forget_mask()
                self._masked.clear()
                self._mask_bytes = 0
            self._mask_bytes += len(mask)
            self._masked.add(place)
        place.mask = mask

    def _steady(self, stretch: _Stretch) -> Place:
        """The one of a stretch that begins in free text."""
        found = None if stretch.steady is None else stretch.steady()
        if found is None:
            found = self._new(stretch)
            found.arrival = _AT_STEADY
            stretch.steady = ref(found)
        return found

    def _new_behind(self, stretch: _Stretch, text: bytes) -> Place:
        return self._new(_Stretch()) if len(text) > _MOST_TEXT else self._new(stretch, text)

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
