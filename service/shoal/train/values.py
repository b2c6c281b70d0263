"""Slot values to put into requests: of other requests, mixed, invented, titles of an encyclopaedia.

A small corpus holds each name once or twice. A network that sees a new one in every reading learns
to copy names instead of knowing them.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]

_SWAPPED = 0.55  # share of values that are replaced
# of the replaced values of an open slot, titles where there are some
_MIXED, _TITLED, _INVENTED = 0.2, 0.3, 0.3
_DEFINITION = re.compile(r"\b(?:is|was|are|were) (?:an?|the) ([^.,;()]{3,80})")
_PREPOSITION = re.compile(r"\b(?:in|of|by|from|that|which|for|at|on|who|with|about|to)\b")
_PARTICIPLES = re.compile(r"(?: \w+ed| written| made| known| best)+$")  # "a band [formed]"
_QUALIFIER = re.compile(r" \(.*|, .*")  # "Lincoln[, New Hampshire]"


class ValuePools:
    """Values by slot. Slots in `open_slots` take mixed and invented values and `titles` too."""

    def __init__(
        self,
        records: Iterable[Record],
        open_slots: Iterable[str] = (),
        titles: dict[str, list[str]] | None = None,
    ) -> None:
        self.open_slots, self.titles = frozenset(open_slots), titles or {}
        self.said: dict[str, list[str]] = defaultdict(list)
        for record in records:
            for slot in record["slots"]:
                self.said[slot["slot"]].append(slot["value"])
        self.names = {
            slot: sorted({*self.said[slot], *self.titles.get(slot, ())}) for slot in self.open_slots
        }

    def draw(self, slot: str, value: str, chance: random.Random) -> str:
        """`value`, or about half of the time another one for the same slot."""
        if chance.random() >= _SWAPPED:
            return value
        if slot not in self.open_slots:
            return chance.choice(self.said[slot])
        kind = chance.random()
        if kind < _MIXED:
            return mixed(chance.choice(self.said[slot]), chance.choice(self.said[slot]), chance)
        if kind < _MIXED + _TITLED and self.titles.get(slot):
            title = chance.choice(self.titles[slot])
            return title.lower() if chance.random() < 0.4 else title
        if kind > 1 - _INVENTED:
            return invented(self.names[slot], chance)
        return chance.choice(self.said[slot])


def mixed(first: str, second: str, chance: random.Random) -> str:
    """The beginning of one value and the end of another, cut between words where both have some."""
    begin, end = first.split(" "), second.split(" ")
    if len(begin) > 1 and len(end) > 1:
        return " ".join(
            begin[: chance.randrange(1, len(begin))] + end[chance.randrange(1, len(end)) :]
        )
    cut = max(1, len(first) // 2)
    return first[:cut] + second[len(second) // 2 :].lstrip()


def invented(names: list[str], chance: random.Random) -> str:
    """A name that nobody can know, of the look of `names`: as many words as one of them has, each
    out of any other, four in ten cut and put together anew. Only copying every token gets it right.
    """
    made = []
    length = len(chance.choice(names).split())
    for place in range(length):
        end = place == length - 1
        word = _word_of(chance.choice(names), place, end)
        if chance.random() < 0.4:
            other = _word_of(chance.choice(names), place, end)
            word = word[: chance.randint(1, len(word))] + other[len(other) // 2 :]
        made.append(word)
    name = " ".join(made)
    name = name.rstrip(" .,:;!?") or name
    return name.lower() if chance.random() < 0.4 else name


def _word_of(name: str, place: int, end: bool) -> str:
    words = name.split()
    return words[-1] if end else words[min(place, len(words) - 1)]


def titles_by_slot(records: Iterable[Record], nouns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Titles of articles by slot, told by the noun of their first sentence.

    `nouns` maps a slot to what its values are: {"artist": ["singer", "band"]}.
    """
    slots_of: dict[str, list[str]] = defaultdict(list)
    for slot, names in nouns.items():
        for name in names:
            slots_of[name].append(slot)
    found: dict[str, list[str]] = {slot: [] for slot in nouns}
    for record in records:
        told = _DEFINITION.search(record["text"][:500])
        if told is None:
            continue
        title = _QUALIFIER.sub("", record["title"])
        phrase = _PREPOSITION.split(told.group(1), maxsplit=1)[0].lower().strip()
        for slot in slots_of.get(_PARTICIPLES.sub("", phrase).split(" ")[-1], ()):
            found[slot].append(title)
    return found
