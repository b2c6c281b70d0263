"""Slot values to put into requests: those of other requests, mixed ones, invented ones, titles.

A small corpus holds each name once or twice. A network that sees a new one in every variant learns
to copy names instead of memorizing them.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from shoal.train.pieces import Record

_REPLACED = 0.55  # share of values that are replaced
# Of the replaced values of an open slot: mixed, titles (where there are some), invented.
_MIXED, _TITLES, _INVENTED = 0.12, 0.38, 0.3
_DEFINITION = re.compile(r"\b(?:is|was|are|were) (?:an?|the) ([^.,;()]{3,80})")
_PREPOSITION = re.compile(r"\b(?:in|of|by|from|that|which|for|at|on|who|with|about|to)\b")
_PARTICIPLES = re.compile(r"(?: \w+ed| written| made| known| best)+$")  # "a band [formed]"
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_QUALIFIER = re.compile(r" \(.*|, .*")  # "Lincoln[, New Hampshire]"


class SlotValues:
    """Values by slot. Slots in `open_slots` also take mixed and invented values and `titles`;
    invented ones are made of `words` and of the words of titles."""

    def __init__(
        self,
        records: Iterable[Record],
        open_slots: Iterable[str] = (),
        titles: Mapping[str, list[str]] | None = None,
        words: Iterable[str] = (),
    ) -> None:
        self.open_slots, self.titles = frozenset(open_slots), titles or {}
        self.observed: dict[str, list[str]] = defaultdict(list)
        for record in records:
            for slot in record["slots"]:
                self.observed[slot["slot"]].append(slot["value"])
        self.words = sorted(
            {*words, *(word for names in self.titles.values() for word in _words(names))}
        )
        self.names = {
            slot: sorted({*self.observed[slot], *self.titles.get(slot, ())})
            for slot in self.open_slots
        }

    def draw(self, slot: str, value: str, rng: random.Random) -> str:
        """`value`, or about half of the time another one for the same slot."""
        if rng.random() >= _REPLACED:
            return value
        observed = self.observed[slot]
        if slot not in self.open_slots:
            return rng.choice(observed)
        kind = rng.random()
        if kind < _MIXED:
            return mixed(rng.choice(observed), rng.choice(observed), rng)
        if kind < _MIXED + _TITLES and self.titles.get(slot):
            title = rng.choice(self.titles[slot])
            return title.lower() if rng.random() < 0.4 else title
        if kind > 1 - _INVENTED:
            return invented(self.names[slot], self.words, rng)
        return rng.choice(observed)


def mixed(first: str, second: str, rng: random.Random) -> str:
    """The beginning of one value and the end of another, cut between words where both have some."""
    begin, end = first.split(" "), second.split(" ")
    if len(begin) > 1 and len(end) > 1:
        return " ".join(begin[: rng.randrange(1, len(begin))] + end[rng.randrange(1, len(end)) :])
    cut = max(1, len(first) // 2)
    return first[:cut] + second[len(second) // 2 :].lstrip()


def invented(names: list[str], words: list[str], rng: random.Random) -> str:
    """A name that nobody can know but that looks like `names`.

    It has as many words as one of them, each taken from any of them; four in ten get the end of one
    of `words`, and some are one of `words`. All of `words` are equally likely, however rare, so
    only copying every token gets the name right.
    """
    parts = []
    length = len(rng.choice(names).split())
    for index in range(length):
        model = rng.choice(names).split()
        word = model[-1] if index == length - 1 else model[min(index, len(model) - 1)]
        kind = rng.random()
        if kind < 0.4:
            rare = rng.choice(words) if words else word
            word = word[: rng.randint(1, len(word))] + rare[len(rare) // 2 :]
        elif kind < 0.65:
            word = rng.choice(words) if words else word
        parts.append(word)
    name = " ".join(parts)
    name = name.rstrip(" .,:;!?") or name
    return name.lower() if rng.random() < 0.4 else name


def _words(names: Iterable[str]) -> Iterator[str]:
    return (word for name in names for word in name.split())


def common_words(records: Iterable[Record]) -> list[str]:
    """Words that occur three times or more in the beginnings of texts, as written there: together
    they contain nearly every token that an English word may be made of."""
    counts = Counter(word for record in records for word in _WORD.findall(record["text"][:1500]))
    return sorted(word for word, count in counts.items() if count >= 3)


def titles_by_slot(records: Iterable[Record], nouns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Titles of articles by slot, decided by the noun that defines them in the first sentence.

    `nouns` maps a slot to what its values are: {"artist": ["singer", "band"]}. Titles that fit no
    slot are under the empty name.
    """
    slots_of: dict[str, list[str]] = defaultdict(list)
    for slot, names in nouns.items():
        for name in names:
            slots_of[name].append(slot)
    titles: dict[str, list[str]] = {slot: [] for slot in [*nouns, ""]}
    for record in records:
        title = _QUALIFIER.sub("", record["title"])
        definition = _DEFINITION.search(record["text"][:500])
        phrase = ""
        if definition:
            phrase = _PREPOSITION.split(definition.group(1), maxsplit=1)[0].lower().strip()
        for slot in slots_of.get(_PARTICIPLES.sub("", phrase).split(" ")[-1], [""]):
            titles[slot].append(title)
    return titles
