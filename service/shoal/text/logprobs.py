"""Log-probabilities of many tokens in little memory, for answers that are collected before they are
sent: 12 bytes for each number, where objects take ten times as much."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, cast, overload

from shoal.protocol.messages import TokenLogprobs

Entry = TypeVar("Entry", TokenLogprobs, TokenLogprobs | None)
_NONE = -1
"""In place of a token's id: this one has no probability."""


class LogprobColumns(Sequence[Entry], Generic[Entry]):
    """Reads like the list of what was put into it; the entries are made anew each time."""

    __slots__ = ("_ends", "_ids", "_values")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._ids = array("i")  # of each entry its token, then the likeliest
        self._values = array("d")
        self._ends = array("q")
        self.extend(entries)

    def append(self, entry: Entry) -> None:
        if entry is None:
            self._ids.append(_NONE)
            self._values.append(0.0)
        else:
            self._ids.append(entry.token_id)
            self._values.append(entry.logprob)
            self._ids.extend(entry.top_ids)
            self._values.extend(entry.top_logprobs)
        self._ends.append(len(self._ids))

    def extend(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.append(entry)

    @property
    def num_values(self) -> int:
        """How many numbers there are, of all entries together."""
        return len(self._values)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Entry]:
        start = 0
        for end in self._ends:
            yield self._entry(start, end)
            start = end

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        index = range(len(self))[at]
        return self._entry(self._ends[index - 1] if index else 0, self._ends[index])

    def _entry(self, start: int, end: int) -> Entry:
        ids, values = self._ids, self._values
        if ids[start] == _NONE:
            return cast(Entry, None)
        return TokenLogprobs(
            ids[start],
            values[start],
            ids[start + 1 : end].tolist(),
            values[start + 1 : end].tolist(),
        )
