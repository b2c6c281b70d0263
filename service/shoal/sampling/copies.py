"""Words of a prompt, copied into strings of JSON: where in the prompt a copy may be.

A copy is a run of whole pieces of the text, words and signs with the spaces between them, and
neither begins nor ends with spaces. It is followed in the text as JSON writes it, with escapes:
all places where what was copied so far may come from, as positions of bytes behind it.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.sampling.token_table import QUOTE, STEM, TokenTable

_PIECE = re.compile(r"\w+|[^\w\s]")
_ASCII_SIZES = np.array([len(json.dumps(chr(code))) - 2 for code in range(128)])
"""[character] bytes in a string of JSON"""
_FEW = 64
"""Places that are looked through one by one."""
_SPELLED_BYTES = 64
"""Of a text, at least, that are encoded together."""

Places = list[int] | NDArray[np.int64]
"""An array of more than a few."""


class Spelling(NamedTuple):
    """A part of a text, as the vocabulary encodes it."""

    token_ids: list[int]
    index_at: dict[int, int]
    """[position] the token that begins there"""


class CopyText:
    """What may be copied, for one vocabulary. Shared by all that copy from it."""

    def __init__(self, text: str, table: TokenTable) -> None:
        """Some piece of it is no space."""
        written = json.dumps(text, ensure_ascii=False)[1:-1].encode()
        position: Sequence[int] = range(len(text) + 1)
        if len(written) > len(text):
            position = _positions(text)
        pieces = [match.span() for match in _PIECE.finditer(text)]
        starts = [position[first] for first, _ in pieces]
        self.table = table
        self.ends = [position[last] for _, last in pieces]
        """Where a copy may end, in their order."""
        self.data = written[: self.ends[-1]]
        self._codes = np.frombuffer(self.data, np.uint8)
        self._is_end = bytearray(len(self.data) + 1)
        for end in self.ends:
            self._is_end[end] = True
        groups: dict[int, list[int]] = {}
        for start in starts:
            groups.setdefault(self.data[start], []).append(start)
        self._starts = _places(starts)
        self._starts_with = {code: _places(group) for code, group in groups.items()}
        """[first byte] where a copy may begin"""
        self._first_bytes = starts
        self.begins_variously = len(groups) > 1
        """Do not all copies begin with the same byte?"""
        self._spellings: dict[tuple[int, int], Spelling] = {}

    @property
    def beginning(self) -> "Copy":
        """Nothing is copied."""
        return Copy(self, self._starts, 0)

    def follow(self, places: Places, text: bytes) -> Places:
        """Behind this text; none where it does not follow."""
        if places is self._starts:
            places = self._starts_with.get(text[0], [])
        size, data = len(text), self.data
        if isinstance(places, list):
            return [place + size for place in places if data.startswith(text, place)]
        found: NDArray[np.int64] = places[places <= len(data) - size]
        for index, code in enumerate(text):
            found = found[self._codes[found + index] == code]
        return found + size if len(found) > _FEW else (found + size).tolist()

    def has_end(self, places: Places) -> bool:
        """May a copy that is not empty end at one of them?"""
        if isinstance(places, list):
            return any(self._is_end[place] for place in places)
        return bool(np.frombuffer(self._is_end, bool)[places].any())

    def may_end_at(self, place: int) -> bool:
        """Does a piece end there?"""
        return bool(self._is_end[place])

    def continuations(self, places: Places) -> set[int]:
        """Tokens whose text follows at one of the places."""
        return self._first_tokens if places is self._starts else self._tokens_at(places)

    def has_longer(self, place: int, size: int) -> bool:
        """Is there a token for the text at a place that has more than so many bytes?"""
        data, ids = self.data, self.table.ids
        last = min(place + self.table.reach(data[place : place + STEM]), len(data))
        return any(data[place:end] in ids for end in range(place + size + 1, last + 1))

    def pieces(self, most: int) -> list[tuple[int, int, bytes]] | None:
        """(first byte, end, text in lower case) of each; None of more than so many."""
        return self._pieces if len(self.ends) <= most else None

    def index_of_end(self, place: int) -> int:
        """Which piece ends at a place."""
        return bisect_left(self.ends, place)

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

    @cached_property
    def _pieces(self) -> list[tuple[int, int, bytes]]:
        spans = zip(self._first_bytes, self.ends, strict=True)
        return [(first, last, self.data[first:last].lower()) for first, last in spans]

    @cached_property
    def _first_tokens(self) -> set[int]:
        return self._tokens_at(self._starts)

    def _tokens_at(self, places: Places) -> set[int]:
        data, longest = self.data, self.table.longest
        if not isinstance(places, list):
            places = places.tolist()
        beginnings = {
            data[place : place + longest.get(data[place : place + STEM], STEM - 1)]
            for place in places
        }
        return {token_id for text in beginnings for token_id in self.table.beginnings(text)}

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
        return self.size > 0 and self.text.has_end(self.places)

    @property
    def is_whole(self) -> bool:
        """Can nothing follow?"""
        return len(self.places) == 1 and self.places[0] == len(self.text.data)

    def behind(self, text: bytes) -> "Copy | None":
        """With this text, which is not empty, if it may follow."""
        places = self.text.follow(self.places, text)
        return Copy(self.text, places, self.size + len(text)) if len(places) else None

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

    def _num_agreed(self) -> int:
        """Bytes that must follow."""
        places, ends = self.places, self.text.ends
        if not isinstance(places, list) or self.may_end:
            return 0
        if not self.size and self.text.begins_variously:
            return 0
        data, most = self.text.data, min(ends[bisect_left(ends, p + 1)] - p for p in places)
        following = [data[place : place + most] for place in places]
        pairs = zip(min(following), max(following), strict=True)
        return next((size for size, (one, other) in enumerate(pairs) if one != other), most)

    def _is_open(self, before: int, size: int) -> bool:
        """May a token begin behind `before` bytes and reach beyond `size`?"""
        text, rest = self.text, size - before
        if rest >= text.table.most_bytes:
            return False
        if any(text.has_longer(place + before, rest) for place in self.places):
            return True
        first = int(self.places[0])
        return text.data[first + before : first + size] + QUOTE in text.table.closing

    def _spelled(self) -> list[int]:
        """Tokens of what follows at the first place, as many as are encoded together."""
        place = int(self.places[0])
        return self.text.spelled(place - self.size, place)


def _places(places: list[int]) -> Places:
    return places if len(places) <= _FEW else np.array(places, np.int64)


def _positions(text: str) -> list[int]:
    """[characters + 1] of each character in a string of JSON, and the end."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = np.searchsorted(np.array([0x80, 0x800, 0x10000]), codes, side="right") + 1
    is_ascii = codes < 0x80
    sizes[is_ascii] = _ASCII_SIZES[codes[is_ascii]]
    found: list[int] = np.cumsum(sizes).tolist()
    return [0, *found]
