"""Where in prompts the copies of other answers began and ended, to guess where the next one does.

For each key of a schema, how often a word was the first of a copy, stood before one, was the last
or followed one, out of the times it could have been.
"""

from collections import OrderedDict, defaultdict

from shoal.sampling.copies import Copy, CopyText

_MAX_COUNTS = 1 << 14
"""Some 3 MB."""
_MAX_PIECES = 128
"""Of a text that is looked at."""
_FOLLOWS, _BEGINS, _ENDS = 0.05, 0.2, 0.3
"""Taken for the share of words that were never seen: that a copy follows them, begins or ends with
them."""


class _Count:
    """How often something was so, of how often it could have been."""

    __slots__ = ("num", "num_seen")

    def __init__(self) -> None:
        self.num = self.num_seen = 0

    def share(self, expected: float) -> float:
        """`expected`: of something that was never seen."""
        return (self.num + expected) / (self.num_seen + 1)


_NEVER = _Count()


class _Words(defaultdict[bytes, _Count]):
    def __init__(self) -> None:
        super().__init__(_Count)

    def see(self, word: bytes, *, is_so: bool) -> None:
        count = self[word]
        count.num += is_so
        count.num_seen += 1

    def share(self, word: bytes, expected: float) -> float:
        return self.get(word, _NEVER).share(expected)


class _Key:
    """Of one key."""

    def __init__(self) -> None:
        self.before, self.first, self.last, self.behind = _Words(), _Words(), _Words(), _Words()

    def __len__(self) -> int:
        return sum(map(len, self._all))

    @property
    def _all(self) -> tuple[_Words, ...]:
        return self.before, self.first, self.last, self.behind

    def drop_rare(self) -> None:
        """Words that were seen once."""
        for words in self._all:
            for word in [word for word, count in words.items() if count.num_seen == 1]:
                del words[word]


class CopyHabits:
    """Of the answers under one grammar."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, _Key] = OrderedDict()
        self._num_counts = 0

    def __len__(self) -> int:
        return self._num_counts

    def learn(self, key: bytes, copy: Copy, used: list[tuple[int, int]]) -> None:
        """A copy that is over. `used`: what the answer copied before, from where to where."""
        text, end = copy.text, int(copy.places[0])
        if (pieces := text.pieces(_MAX_PIECES)) is None:
            return
        if (habits := self._keys.get(key)) is None:
            habits = self._keys[key] = _Key()
        self._keys.move_to_end(key)
        size, before = len(habits), b""
        for index, (first, last, word) in enumerate(pieces):
            is_first = first == end - copy.size
            if is_first or not _is_used(first, used):
                habits.before.see(before, is_so=is_first)
                habits.first.see(word, is_so=is_first)
            before = word
            if end - copy.size <= first < end and index + 1 < len(pieces):
                habits.last.see(word, is_so=last == end)
                habits.behind.see(pieces[index + 1][2], is_so=last == end)
        self._num_counts += len(habits) - size
        if self._num_counts > _MAX_COUNTS:
            self._trim()

    def beginning(
        self, key: bytes, text: CopyText, used: list[tuple[int, int]]
    ) -> tuple[int, float] | None:
        """Where a copy is likely to begin, and how likely."""
        habits, pieces = self._keys.get(key), text.pieces(_MAX_PIECES)
        if habits is None or pieces is None:
            return None
        total, best, place, before = 0.0, 0.0, 0, b""
        for first, _, word in pieces:
            if not _is_used(first, used):
                follows = habits.before.share(before, _FOLLOWS)
                chance = (follows + habits.first.share(word, _BEGINS)) ** 2
                total += chance
                if chance > best:
                    best, place = chance, first
            before = word
        return (place, best / total) if total else None

    def ending(self, key: bytes, text: CopyText, place: int) -> float:
        """How likely a copy is to end at a place."""
        habits, pieces = self._keys.get(key), text.pieces(_MAX_PIECES)
        if habits is None or pieces is None:
            return 0.0
        index = text.index_of_end(place)
        if index + 1 == len(pieces):
            return 1.0
        last = habits.last.get(pieces[index][2], _NEVER)
        behind = habits.behind.get(pieces[index + 1][2], _NEVER)
        return (last.num + behind.num + _ENDS) / (last.num_seen + behind.num_seen + 1)

    def _trim(self) -> None:
        """To half of what may be, the keys that were met last."""
        for habits in self._keys.values():
            habits.drop_rare()
        self._num_counts = sum(map(len, self._keys.values()))
        while self._num_counts > _MAX_COUNTS // 2:
            _, dropped = self._keys.popitem(last=False)
            self._num_counts -= len(dropped)


def _is_used(place: int, used: list[tuple[int, int]]) -> bool:
    return any(first <= place < last for first, last in used)
