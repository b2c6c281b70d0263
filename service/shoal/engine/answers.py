"""What sequences said under one grammar, for drafts: answers of one shape resemble each other.

Counts which token followed the last two and four. Kept apart for each tenant and cache salt, for
how fast an answer comes tells what others like it said. Knows integers only.
"""

from collections import OrderedDict

from shoal.engine.sequence import Sequence

_LENGTHS = (4, 2)
"""Tokens that a token followed, the longest first."""
MAX_BEFORE = _LENGTHS[0]
_MAX_TABLES = 32
_MAX_PLACES = 8192
"""Of one table, some 4 MB; those that were met last stay."""
_MAX_PLACES_OF_ALL = 4 * _MAX_PLACES
_MAX_FOLLOWERS = 8
_MAX_COUNT = 64
"""All counts of a place are halved there, so it follows what is said lately."""
_MAX_TOKENS = 1024
"""Of one answer."""

Key = tuple[str, str, str]


class Answers:
    """The tables of one model, those used last."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Key, AnswerTable] = OrderedDict()

    def table(self, seq: Sequence) -> "AnswerTable | None":
        """Of a sequence's grammar; None without one, and for one that shares nothing."""
        submit = seq.submit
        if submit.sampling.grammar is None or not submit.use_prefix_cache:
            return None
        key = (submit.tenant, seq.cache_salt, submit.sampling.grammar)
        table = self._tables.setdefault(key, AnswerTable())
        self._tables.move_to_end(key)
        self._drop_oldest()
        return table

    def _drop_oldest(self) -> None:
        num_places = sum(map(len, self._tables.values()))
        while len(self._tables) > _MAX_TABLES or (
            len(self._tables) > 1 and num_places > _MAX_PLACES_OF_ALL
        ):
            _, dropped = self._tables.popitem(last=False)
            num_places -= len(dropped)


class AnswerTable:
    """What followed what in the answers under one grammar."""

    def __init__(self) -> None:
        self._followers: OrderedDict[tuple[int, ...], dict[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    def guess(self, before: list[int]) -> tuple[int, float] | None:
        """The token that mostly followed the last ones, and its share; None where they are new."""
        for length in _LENGTHS:
            if followers := self._followers.get(tuple(before[-length:])):
                token_id = max(followers, key=followers.__getitem__)
                return token_id, followers[token_id] / sum(followers.values())
        return None

    def learn(self, token_ids: list[int], start: int) -> None:
        """An answer: the tokens from `start` on."""
        for at in range(max(start, _LENGTHS[0]), min(len(token_ids), start + _MAX_TOKENS)):
            for length in _LENGTHS:
                self._count(tuple(token_ids[at - length : at]), token_ids[at])
        while len(self._followers) > _MAX_PLACES:
            self._followers.popitem(last=False)

    def _count(self, place: tuple[int, ...], token_id: int) -> None:
        followers = self._followers.setdefault(place, {})
        self._followers.move_to_end(place)
        followers[token_id] = followers.get(token_id, 0) + 1
        if len(followers) > _MAX_FOLLOWERS:
            del followers[min(followers, key=followers.__getitem__)]
        if followers.get(token_id, 0) >= _MAX_COUNT:
            for each, count in [*followers.items()]:
                followers[each] = count // 2
                if count < 2:
                    del followers[each]
