"""A program that tells simple stories: who was asked for stays who it is, and the story ends.

A plot in `tales.toml` is a list of sentences with gaps (`{hero}`) and choices (`[ran/walked]`).
What fills the gaps is drawn once for a story, so names, things and places are the same from
beginning to end. Names come from the stories of the source, which are not told themselves.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shoal.train.config import Source
from shoal.train.pieces import Variant, plain, request_and_answer
from shoal.train.requests import find_features, framed, names_by_kind, rarity, with_article

_TOLD = tomllib.loads(Path(__file__).with_name("tales.toml").read_text(encoding="utf-8"))
_WORDS: dict[str, list[str]] = {kind: words.split() for kind, words in _TOLD["words"].items()}
_PHRASES: dict[str, list[str]] = {
    kind: phrases.splitlines() for kind, phrases in _TOLD["phrases"].items()
}
_PLOTS: dict[str, dict[str, list[str]]] = {
    name: {part: text.splitlines() for part, text in plot.items()}
    for name, plot in _TOLD["plots"].items()
}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_START = re.compile(r'(^|[.!?] |\." |(?:^| )")([a-z])')


def read_tales(records: Iterable[dict[str, Any]], source: Source) -> Iterator[list[Variant]]:
    """As many stories as the option `count` says: one reading plain, three as answers."""
    texts = [record["text"] for record in records]
    rare = rarity(texts)
    names = names_by_kind([find_features(text, rare) for text in texts])
    for number in range(int(source.options["count"])):
        chance = random.Random(f"tale {number}")
        subjects, text = tell(names, chance)
        requests = [framed(subject, chance) for subject in subjects]
        yield [plain(text), *(request_and_answer(request, text) for request in requests)]


def tell(names: dict[str, list[str]], chance: random.Random) -> tuple[list[str], str]:
    """Three subjects, and a story that is about each of them. `names`: `she`, `he`, `other`."""
    plot = chance.choice(list(_PLOTS))
    asked, told = _PLOTS[plot]["asked"], _PLOTS[plot]["told"]
    gaps = _gaps(names, chance, _WORDS["small"] if plot == "stray" else None)
    subjects = [_filled(subject, gaps, chance) for subject in chance.choices(asked, k=2)]
    subjects.append(f"{gaps['a_hero']} named {gaps['name']}")
    has_friend = any("{the_friend}" in sentence for sentence in told)
    endings = [end for end in _PHRASES["endings"] if has_friend or "{the_friend}" not in end]
    sentences = [chance.choice(_PHRASES["openings"]), *told, chance.choice(endings)]
    filled = [_filled(sentence, gaps, chance) for sentence in sentences]
    breaks = (" ", "\n") if chance.random() < 0.6 else (" ",)
    paragraphs = "".join(sentence + chance.choice(breaks) for sentence in filled if sentence)
    return subjects, paragraphs.strip()


def _gaps(
    names: dict[str, list[str]], chance: random.Random, heroes: list[str] | None
) -> dict[str, str]:
    def draw(kind: str) -> str:
        return chance.choice(_WORDS[kind])

    hero = chance.choice(heroes or ["boy", "girl"] * 15 + _WORDS["folk"] + _WORDS["animals"])
    of_people = hero in _WORDS["folk"]
    she = hero in _WORDS["she"] or (not of_people and chance.random() < 0.4)
    kind = ("she" if she else "he") if of_people else "other"
    he, him, his = ("she", "her", "her") if she else ("he", "him", "his")
    gaps = dict(zip(("name", "name2", "name3"), chance.sample(names[kind], 3), strict=True))
    gaps |= dict(zip(("place", "place2"), chance.sample(_PHRASES["places"], 2), strict=True))
    gaps |= dict(zip(("spot", "spot2", "spot3"), chance.sample(_PHRASES["spots"], 3), strict=True))
    friend = chance.choice([animal for animal in _WORDS["animals"] if animal != hero])
    known = f" named {gaps['name3']}" if chance.random() < 0.3 else ""
    colour, thing, kin = draw("colours"), draw("things"), draw("kin")
    talker, ride = draw("talkers"), draw("rides")
    danger, sharp, burned = chance.choice(_PHRASES["dangers"]).split()
    gaps |= {
        "he": he,
        "him": him,
        "his": his,
        "hero": hero,
        "small": hero,
        "a_hero": with_article(chance.choice((f"{draw('manners')} {hero}", hero))),
        "the_friend": f"the {friend}",
        "a_friend": with_article(friend) + known,
        "kin": kin,
        "colour": colour,
        "thing": thing,
        "a_thing": with_article(chance.choice((f"{colour} {thing}", thing))),
        "talker": talker,
        "a_talker": with_article(f"{colour} {talker}"),
        "danger": danger,
        "a_danger": with_article(danger),
        "sharp": sharp,
        "burned": burned,
        "food": draw("foods"),
        "ride": ride,
        "a_ride": with_article(f"{colour} {ride}"),
        "fear": chance.choice(_PHRASES["fears"]),
        "weather": chance.choice(("rain", "snow", "wind")),
    }
    return gaps | {gap.capitalize(): gaps[gap].capitalize() for gap in ("he", "his", "kin")}


def _filled(sentence: str, gaps: dict[str, str], chance: random.Random) -> str:
    while _CHOICE.search(sentence):  # the innermost first
        sentence = _CHOICE.sub(lambda found: chance.choice(found[1].split("/")), sentence)
    text = " ".join(sentence.format_map(gaps).split())
    if " " not in text or sentence[-1:] not in '.!?"':
        return text  # a subject, no sentence
    return _START.sub(lambda found: found[1] + found[2].upper(), text)
