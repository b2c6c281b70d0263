"""Words of a prompt, copied into strings of JSON: where in the prompt a copy may be.

A copy is a run of whole pieces of the text, words and signs with the spaces between them, and
neither begins nor ends with spaces. It is followed in the text as JSON writes it, with escapes:
all places where what was copied so far may come from, as positions of bytes behind it.
"""

import json
import re
from bisect import bisect_left
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.sampling.token_table import QUOTE, TokenTable

_PIECE = re.compile(r"\w+|[^\w\s]")
_NUM_ESCAPED = np.array([len(json.dumps(chr(code))) - 2 for code in range(128)])
"""[ASCII code] bytes in a string of JSON"""
_FEW = 64
"""Places; more are looked through as an array, and force nothing."""
_SPELLED_BYTES = 64
"""Of a text, at least, that are encoded together."""

Places = list[int] | NDArray[np.intp]


class Spelling(NamedTuple):
    """A part of a text, as the vocabulary encodes it."""

    token_ids: list[int]
    index_at: dict[int, int]
    """[position] the token that begins there"""


class CopyText:
    """What may be copied, for one vocabulary. Of it all copies are."""

    def __init__(self, text: str, table: TokenTable) -> None:
        """Some piece of it is no space."""
        chars = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        is_ascii = chars < 0x80
        sizes = 1 + np.searchsorted([0x80, 0x800, 0x10000], chars, side="right")
        sizes[is_ascii] = _NUM_ESCAPED[chars[is_ascii]]
        positions = np.concatenate([[0], np.cumsum(sizes)])
        pieces = positions[np.array([match.span() for match in _PIECE.finditer(text)])]
        self.table = table
        self.ends: list[int] = pieces[:, 1].tolist()
        """Where a copy may end."""
        self.data = json.dumps(text, ensure_ascii=False)[1:-1].encode()[: self.ends[-1]]
        self.is_end = np.zeros(len(self.data) + 1, bool)
        self.is_end[pieces[:, 1]] = True
        self.codes = np.frombuffer(self.data, np.uint8)
        firsts = self.codes[pieces[:, 0]]
        self._starts = {int(first): _places(pieces[firsts == first, 0]) for first in set(firsts)}
        """[first byte] where a copy may begin"""
        self._all_starts = _places(pieces[:, 0])
        self._spellings: dict[tuple[int, int], Spelling] = {}

    @property
    def beginning(self) -> "Copy":
        """Nothing is copied."""
        return Copy(self, self._all_starts, 0)

    def follow(self, places: Places, text: bytes) -> Places:
        """Behind this text; none where it does not follow."""
        if places is self._all_starts:
            places = self._starts.get(text[0], [])
        size, data = len(text), self.data
        if isinstance(places, list):
            return [place + size for place in places if data.startswith(text, place)]
        places = places[places + size <= len(data)]
        for index, code in enumerate(text):
            places = places[self.codes[places + index] == code]
        return _places(places + size)

    def continuations(self, places: Places) -> set[int]:
        """Tokens whose text follows at one of the places."""
        if places is self._all_starts:
            return self._first_tokens
        data, longest = self.data, self.table.longest
        heads = {
            data[place : place + longest.get(data[place : place + 2], 1)]
            for place in (places if isinstance(places, list) else places.tolist())
        }
        return {token_id for head in heads for token_id in self.table.beginnings(head)}

    def has_longer(self, place: int, size: int) -> bool:
        """Is there a token for the text at a place that has more than so many bytes?"""
        data, ids = self.data, self.table.ids
        longest = self.table.longest.get(data[place : place + 2], 0)
        last = min(place + longest, len(data))
        return any(data[place:end] in ids for end in range(place + size + 1, last + 1))

    def spelled(self, start: int, place: int) -> list[int]:
        """Tokens of what follows at a place, up to the end of some piece; none where they differ
        from the text. A string that begins at `start` is encoded from there, a long one in parts;
        and from the place itself where none of those tokens begins."""
        first_end = self._border(start // _SPELLED_BYTES + 2)
        if place < first_end:
            spelling = self._spelling(start, first_end)
        else:
            part = place // _SPELLED_BYTES
            while self._border(part) > place:
                part -= 1
            spelling = self._spelling(self._border(part), self._border(part + 1))
        if (index := spelling.index_at.get(place)) is not None:
            return spelling.token_ids[index:]
        return self._spelling(place, self._border(place // _SPELLED_BYTES + 2)).token_ids

    def _border(self, part: int) -> int:
        """Where such a part of the text begins, behind a piece."""
        index = bisect_left(self.ends, part * _SPELLED_BYTES)
        return self.ends[min(index, len(self.ends) - 1)]

    def _spelling(self, start: int, end: int) -> Spelling:
        if (found := self._spellings.get((start, end))) is None:
            found = self._spellings[start, end] = self._spell(start, end)
        return found

    def _spell(self, start: int, end: int) -> Spelling:
        text, table = self.data[start:end], self.table
        try:
            token_ids = list(table.encode(text.decode()))
        except UnicodeDecodeError:  # it begins inside a letter
            return Spelling([], {})
        if b"".join(table.text_of(token_id) for token_id in token_ids) != text:
            return Spelling([], {})
        index_at = {}
        for index, token_id in enumerate(token_ids):
            index_at[start] = index
            start += len(table.token_bytes[token_id])
        return Spelling(token_ids, index_at)

    @cached_property
    def _first_tokens(self) -> set[int]:
        return self.continuations(np.array(self._all_starts))


class Copy(NamedTuple):
    """One string, so far."""

    text: CopyText
    places: Places
    """Behind what is copied, in their order; at least one."""
    size: int
    """Bytes that are copied."""

    @property
    def may_end(self) -> bool:
        """Is it a run of whole pieces?"""
        return self.size > 0 and bool(self.text.is_end[self.places].any())

    @property
    def is_whole(self) -> bool:
        """Can nothing follow?"""
        return len(self.places) == 1 and self.places[0] == len(self.text.data)

    def behind(self, text: bytes) -> "Copy | None":
        """With this text, which is not empty, if it may follow."""
        places = self.text.follow(self.places, text)
        if not len(places):
            return None
        return Copy(self.text, places, self.size + len(text))

    def forced(self) -> list[int]:
        """Tokens that must follow, of what is the same at all places. The last ones are left open
        where a longer token may stand in their place."""
        if not (size := self._num_agreed()):
            return []
        tokens, before = self._spelled(), 0
        for index, token_id in enumerate(tokens):
            if before >= size or self._is_open(before, size):
                return tokens[:index]
            before += len(self.text.table.token_bytes[token_id])
        return tokens

    def expected(self, most: int) -> list[int]:
        """Tokens that follow if the first place is right and the copy does not end, at most so
        many."""
        if not self.size and len(self.places) > 1:
            return []
        return self._spelled()[:most]

    def _num_agreed(self) -> int:
        """Bytes that must follow."""
        places, ends = self.places, self.text.ends
        if len(places) > _FEW or self.may_end:
            return 0
        sizes = [ends[bisect_left(ends, place + 1)] - place for place in places]
        data, most = self.text.data, min(sizes)
        following = [data[place : place + most] for place in places]
        pairs = zip(min(following), max(following), strict=True)
        return next((size for size, (one, other) in enumerate(pairs) if one != other), most)

    def _is_open(self, before: int, size: int) -> bool:
        """May a token begin behind `before` bytes and reach beyond `size`?"""
        text, rest = self.text, size - before
        if any(text.has_longer(place + before, rest) for place in self.places):
            return True
        first = int(self.places[0])
        return text.data[first + before : first + size] + QUOTE in text.table.closing

    def _spelled(self) -> list[int]:
        """Tokens of what follows at the first place, as many as are encoded together."""
        place = int(self.places[0])
        return self.text.spelled(place - self.size, place)


def _places(places: NDArray[np.intp]) -> Places:
    return places.tolist() if len(places) <= _FEW else places
