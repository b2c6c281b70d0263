"""Slot values to put into requests: of other requests, mixed, invented, titles of an encyclopaedia.

A small corpus holds each name once or twice. A network that sees a new one in every reading learns
to copy names instead of knowing them.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

Record = dict[str, Any]

_SWAPPED = 0.55  # share of values that are replaced
# of the replaced values of an open slot, titles where there are some
_MIXED, _TITLED, _INVENTED = 0.12, 0.38, 0.3
_DEFINITION = re.compile(r"\b(?:is|was|are|were) (?:an?|the) ([^.,;()]{3,80})")
_PREPOSITION = re.compile(r"\b(?:in|of|by|from|that|which|for|at|on|who|with|about|to)\b")
_PARTICIPLES = re.compile(r"(?: \w+ed| written| made| known| best)+$")  # "a band [formed]"
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_QUALIFIER = re.compile(r" \(.*|, .*")  # "Lincoln[, New Hampshire]"


class ValuePools:
    """Values by slot. Slots in `open_slots` take mixed and invented values and `titles` too;
    invented ones are made of `words` and those of titles."""

    def __init__(
        self,
        records: Iterable[Record],
        open_slots: Iterable[str] = (),
        titles: dict[str, list[str]] | None = None,
        words: Iterable[str] = (),
    ) -> None:
        self.open_slots, self.titles = frozenset(open_slots), titles or {}
        self.said: dict[str, list[str]] = defaultdict(list)
        for record in records:
            for slot in record["slots"]:
                self.said[slot["slot"]].append(slot["value"])
        self.words = sorted(
            {*words, *(word for names in self.titles.values() for word in _words(names))}
        )
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
            return invented(self.names[slot], self.words, chance)
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


def invented(names: list[str], words: list[str], chance: random.Random) -> str:
    """A name that nobody can know, of the look of `names`: as many words as one of them has, each
    out of any other, four in ten with the end of one of `words`, and some of these whole. Those are
    all equally likely, however rare, so that only copying every token gets the name right."""
    made = []
    length = len(chance.choice(names).split())
    for place in range(length):
        like = chance.choice(names).split()
        word = like[-1] if place == length - 1 else like[min(place, len(like) - 1)]
        kind = chance.random()
        if kind < 0.4:
            rare = chance.choice(words) if words else word
            word = word[: chance.randint(1, len(word))] + rare[len(rare) // 2 :]
        elif kind < 0.65:
            word = chance.choice(words) if words else word
        made.append(word)
    name = " ".join(made)
    name = name.rstrip(" .,:;!?") or name
    return name.lower() if chance.random() < 0.4 else name


def _words(names: Iterable[str]) -> Iterator[str]:
    return (word for name in names for word in name.split())


def common_words(records: Iterable[Record]) -> list[str]:
    """Words that stand three times or more in the beginnings of texts, as they are written there:
    among them nearly every token that an English word may be made of."""
    seen = Counter(word for record in records for word in _WORD.findall(record["text"][:1500]))
    return sorted(word for word, count in seen.items() if count >= 3)


def titles_by_slot(records: Iterable[Record], nouns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Titles of articles by slot, told by the noun of their first sentence.

    `nouns` maps a slot to what its values are: {"artist": ["singer", "band"]}. Titles that fit no
    slot are under the empty name.
    """
    slots_of: dict[str, list[str]] = defaultdict(list)
    for slot, names in nouns.items():
        for name in names:
            slots_of[name].append(slot)
    found: dict[str, list[str]] = {slot: [] for slot in [*nouns, ""]}
    for record in records:
        title = _QUALIFIER.sub("", record["title"])
        told = _DEFINITION.search(record["text"][:500])
        phrase = _PREPOSITION.split(told.group(1), maxsplit=1)[0].lower().strip() if told else ""
        for slot in slots_of.get(_PARTICIPLES.sub("", phrase).split(" ")[-1], [""]):
            found[slot].append(title)
    return found
