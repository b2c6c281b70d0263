"""Requests made of pieces of real ones, and a linear judge that names their intents.

A network that learns from a hundred requests for each intent is left to guess between them. A
linear classifier over words and pieces of words guesses better, and its judgement of as many
made-up requests as one likes teaches the network what lies between (distillation, Hinton et al.
2015; from made-up inputs, Tang et al. 2019, "Distilling task-specific knowledge from BERT").
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

_SURE = 0.25  # least lead of the best intent, in margins, for a judgement to be taught


class Judgement(NamedTuple):
    """What a request asks for, what it may ask for instead, and how far the first leads."""

    intent: str
    rival: str
    lead: float


class Judge:
    """Names the intent of a request as the requests it was made from teach. Case is ignored."""

    def __init__(self, texts: list[str], intents: list[str]) -> None:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        self._classifier = make_pipeline(make_union(words, pieces), LinearSVC(C=0.5))
        self._classifier.fit([text.lower() for text in texts], intents)

    def judge(self, texts: list[str]) -> list[Judgement]:
        """One judgement for each text."""
        names = self._classifier.classes_
        found: list[Judgement] = []
        for start in range(0, len(texts), 8192):  # scores are texts x intents
            some = [text.lower() for text in texts[start : start + 8192]]
            scores = self._classifier.decision_function(some)
            rivals, best = np.argpartition(scores, -2, axis=1)[:, -2:].T
            row = np.arange(len(some))
            leads = scores[row, best] - scores[row, rivals]
            found += map(Judgement, names[best].tolist(), names[rivals].tolist(), leads.tolist())
        return found


def make_up(texts: list[str], intents: list[str], times: int) -> list[list[tuple[str, str]]]:
    """For each request some made-up ones, each with its intent: at most `times`, fewer where the
    judge is not sure. The same requests give the same."""
    judge = Judge(texts, intents)
    said = defaultdict(list)
    for text, intent in zip(texts, intents, strict=True):
        said[intent].append(text)
    chance = random.Random(f"made up {len(texts)} {times}")
    made = [
        _one(text, said[intent], said[judged.rival], texts, chance)
        for text, intent, judged in zip(texts, intents, judge.judge(texts), strict=True)
        for _ in range(times)
    ]
    judged = judge.judge(made)
    return [
        [
            (made[place], judged[place].intent)
            for place in range(start, start + times)
            if judged[place].lead > _SURE
        ]
        for start in range(0, len(made), times)
    ]


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
