"""Requests made of pieces of real ones, and what judges say that they ask for.

A network that learns from a hundred requests for each intent is left to guess between them. Judges
guess better (`judges.py`), and their judgement of as many made-up requests as one likes teaches the
network what lies between (distillation, Hinton et al. 2015; from made-up inputs, Tang et al. 2019,
"Distilling task-specific knowledge from BERT").
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Protocol

import numpy as np

from shoal.train.judges import Odds

_LIKELY = 0.02  # an intent less likely than this is never drawn
_SHARPNESS = 2.0  # odds are raised to this: less chance in what is learned, the same best answer


class Judge(Protocol):
    """Says how likely each of `names` is."""

    names: list[str]

    def odds(self, texts: list[str]) -> Odds:
        """(texts, names)"""
        ...


def make_up(
    texts: list[str], intents: list[str], times: int, judge: Judge
) -> list[list[tuple[str, str]]]:
    """For each request `times` made-up ones, each with an intent drawn by the judge's odds, so
    that where it doubts the network learns the doubt. The same requests give the same."""
    names = judge.names
    said = defaultdict(list)
    for text, intent in zip(texts, intents, strict=True):
        said[intent].append(text)
    likely = judge.odds(texts)
    likely[:, [name not in said for name in names]] = -np.inf  # nothing to take a piece of
    rivals = np.argsort(likely, axis=1)[:, -2:]
    chance = random.Random(f"made up {len(texts)} {times}")
    made = []
    for place, (text, intent) in enumerate(zip(texts, intents, strict=True)):
        second, first = (names[rival] for rival in rivals[place].tolist())
        other = second if first == intent else first
        made += [_one(text, said[intent], said[other], texts, chance) for _ in range(times)]
    drawn = _draw(judge.odds(made), names, chance)
    return [
        list(zip(made[start : start + times], drawn[start : start + times], strict=True))
        for start in range(0, len(made), times)
    ]


def _draw(odds: Odds, names: list[str], chance: random.Random) -> list[str]:
    """One name for each row, as likely as the square of its odds says."""
    shares = np.exp(odds.astype(np.float64))
    shares = np.where(shares < _LIKELY, 0.0, shares**_SHARPNESS)
    edges = shares.cumsum(axis=1)
    points = np.array([chance.random() for _ in range(len(odds))]) * edges[:, -1]
    return [names[place] for place in (points[:, None] >= edges).sum(axis=1).tolist()]


def _one(
    text: str, same: list[str], rival: list[str], others: list[str], chance: random.Random
) -> str:
    kind = chance.random()
    if kind < 0.15:
        return part(text, chance)
    pool = same if kind < 0.5 else rival if kind < 0.85 else others
    return joined(text, chance.choice(pool), chance)


def joined(first: str, second: str, chance: random.Random) -> str:
    """The beginning of one request and the end of another, cut at about the same share of both."""
    begin, end = first.split(" "), second.split(" ")
    share = chance.uniform(0.3, 0.7)
    return " ".join(begin[: round(share * len(begin))] + end[round(share * len(end)) :]) or first


def part(text: str, chance: random.Random) -> str:
    """Some words of a request that follow each other, at least half of them."""
    words = text.split(" ")
    count = max(1, round(chance.uniform(0.5, 0.9) * len(words)))
    begin = chance.randrange(len(words) - count + 1)
    return " ".join(words[begin : begin + count])
