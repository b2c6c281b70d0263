"""What sequences under one grammar leave to the next ones: what may come where, and what came.

Kept apart for each tenant, cache salt and adapter: how fast an answer comes tells what others like
it said.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shoal.sampling.answers import AnswerTable
from shoal.sampling.copy_habits import CopyHabits
from shoal.sampling.matcher import Matcher, begin
from shoal.sampling.places import Places

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MOST = 32
_MOST_SIZE = 1 << 15
"""Of all together: some 15 MB."""


Beginning = tuple["LLMatcher", Sequence[bytes] | None]
"""A matcher, and the tokens' texts; see `matcher.begin`."""


class Memory(NamedTuple):
    """Of the sequences that learn from each other."""

    beginning: Matcher
    """At the grammar's beginning; to be copied."""
    table: AnswerTable
    habits: CopyHabits

    @property
    def size(self) -> int:
        """Grows with what is kept."""
        return len(self.table) + len(self.habits)


class Memories:
    """Those of one model that were used last."""

    def __init__(self) -> None:
        self._places = Places()
        self._kept: OrderedDict[tuple[str, str], Memory] = OrderedDict()

    def get(
        self, grammar: str, shares_with: str | None, compiled: Callable[[], Beginning]
    ) -> Memory:
        """`shares_with`: None for a sequence that shares with nobody. `compiled`: the grammar,
        asked for once."""
        if shares_with is None:
            return _new(compiled(), Places(are_shared=False))
        key = (grammar, shares_with)
        if (memory := self._kept.get(key)) is None:
            memory = self._kept[key] = _new(compiled(), self._places)
        self._kept.move_to_end(key)
        self._drop_oldest()
        return memory

    def clear(self) -> None:
        """Sequences that run keep theirs."""
        self._kept.clear()

    def _drop_oldest(self) -> None:
        size = sum(memory.size for memory in self._kept.values())
        while len(self._kept) > _MOST or (len(self._kept) > 1 and size > _MOST_SIZE):
            _, dropped = self._kept.popitem(last=False)
            size -= dropped.size


def _new(compiled: Beginning, places: Places) -> Memory:
    matcher, token_texts = compiled
    return Memory(begin(matcher, places, token_texts), AnswerTable(), CopyHabits())
