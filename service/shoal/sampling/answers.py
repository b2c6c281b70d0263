"""What answers under one grammar said, to guess what the next one says: they resemble each other.

A table counts which token followed which others. Of a string that is copied, only the beginning is
looked at; behind it, that there was one is what counts. Knows integers only.
"""

from collections.abc import Iterator, Sequence

_MAX_BEFORE, _FEW_BEFORE = 4, 2
"""Tokens that a token followed."""
_PRIOR = 1
"""Weight of what a place with fewer tokens tells, in times that a place was met (interpolation as
by Dirichlet priors; MacKay and Peto, 1995)."""
_MAX_PLACES = 8192
"""Of one table, some 4 MB."""
_MAX_FOLLOWERS = 8
_MAX_COUNT = 64
"""All counts of a place are halved there, so it follows what is said lately."""
_MAX_STRING = 8
"""Tokens of a string that are looked at."""
_KEPT = 16
"""Tokens that are known of an answer while it is guessed how it goes on."""
_STRING = -1
"""Stands for a string, once it is over."""

_Place = tuple[int, ...] | int
"""The last tokens, or a hash of all of them."""


class AnswerTable:
    """What followed what."""

    def __init__(self) -> None:
        self._followers: dict[_Place, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._followers)

    def guess(self, places: Iterator[_Place]) -> tuple[int, float] | None:
        """The token that is likely to follow, and its chance. `places`: of the same answer, those
        with the most tokens first; None where all are new."""
        met = [followers for place in places if (followers := self._followers.get(place))]
        chances = dict[int, float]()
        for followers in reversed(met):
            total = sum(followers.values()) + (_PRIOR if chances else 0)
            chances = {token_id: share * _PRIOR / total for token_id, share in chances.items()}
            for token_id, count in followers.items():
                chances[token_id] = chances.get(token_id, 0) + count / total
        if not chances:
            return None
        token_id = max(chances, key=chances.__getitem__)
        return token_id, chances[token_id]

    def count(self, places: Iterator[_Place], token_id: int) -> None:
        """That a token followed."""
        for place in places:
            if (followers := self._followers.get(place)) is None:
                self._followers[place] = {token_id: 1}
                continue
            followers[token_id] = count = followers.get(token_id, 0) + 1
            if len(followers) > _MAX_FOLLOWERS:
                del followers[min(followers, key=followers.__getitem__)]
            if count >= _MAX_COUNT:
                self._followers[place] = {i: n // 2 for i, n in followers.items() if n > 1}
        if len(self._followers) > _MAX_PLACES:
            self._forget()

    def _forget(self) -> None:
        """Half of the places: those that were met once, then those that are longest known."""
        self._followers = {
            place: followers
            for place, followers in self._followers.items()
            if sum(followers.values()) > 1
        }
        for place in [*self._followers][: len(self._followers) - _MAX_PLACES // 2]:
            del self._followers[place]


class Answer:
    """One answer, so far."""

    __slots__ = ("_num_inside", "_path", "_table", "inside", "outside")

    def __init__(self, table: AnswerTable) -> None:
        self._table = table
        self._path = 0  # of `outside`
        self._num_inside = 0
        self.outside: list[int] = []
        """Its tokens, and one for each string that is over."""
        self.inside: list[int] = []
        """Of the string that is being said, the first ones."""

    def say(self, token_ids: Sequence[int], *, in_string: bool, learns: bool = True) -> None:
        """All of them belong to a string, or none does."""
        for token_id in token_ids:
            if in_string and self._num_inside >= _MAX_STRING:
                self._num_inside += 1
                continue
            if self._num_inside and not in_string:
                self.end_string()
            if learns:
                self._table.count(self._places(), token_id)
            if in_string:
                self._num_inside += 1
                self.inside.append(token_id)
            else:
                self._add_outside(token_id)

    def guess(self) -> tuple[int, float] | None:
        """The next token and its share; None where nothing like it was said."""
        return self._table.guess(self._places())

    def ahead(self) -> "Answer":
        """Another one, to go on with what may be said."""
        answer = Answer(self._table)
        answer._path, answer._num_inside = self._path, self._num_inside
        answer.outside, answer.inside = self.outside[-_KEPT:], [*self.inside]
        return answer

    def _places(self) -> Iterator[_Place]:
        if not self._num_inside:
            yield self._path
        before = (*self.outside[-_MAX_BEFORE:], *self.inside)
        yield before[-_MAX_BEFORE:]
        yield before[-_FEW_BEFORE:]

    def end_string(self) -> None:
        """Also one of which nothing was said."""
        self.inside, self._num_inside = [], 0
        self._add_outside(_STRING)

    def _add_outside(self, token_id: int) -> None:
        self._path = hash((self._path, token_id))
        self.outside.append(token_id)
