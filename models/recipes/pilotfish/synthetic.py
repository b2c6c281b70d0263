"""Synthetic requests: parts of real ones, labelled by teachers.

A network that learns from a hundred requests of each intent can only guess where one intent ends
and the next begins. Teachers guess better (`teachers.py`), and their labels of any number of
synthetic requests show the network what lies between (distillation, Hinton et al. 2015; from
synthetic inputs, Tang et al. 2019, "Distilling task-specific knowledge from BERT").
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Protocol

import numpy as np

from .teachers import LogProbs

_MIN_PROBABILITY = 0.02  # a less likely intent is never drawn
_SHARPNESS = 2.0  # probabilities are raised to this: less noise in the labels, the same best one


class Teacher(Protocol):
    """Says how likely each intent is for a text."""

    names: list[str]
    """Of the intents."""

    def log_probs(self, texts: list[str]) -> LogProbs:
        """[texts, names]"""
        ...


def label_synthetic(
    texts: list[str], intents: list[str], count: int, teacher: Teacher
) -> list[list[tuple[str, str]]]:
    """For each request `count` synthetic ones with labels. The same input gives the same output.

    A label is drawn from the teacher's probabilities, so that the network learns its doubts too.
    """
    names = teacher.names
    texts_of = defaultdict(list)
    for text, intent in zip(texts, intents, strict=True):
        texts_of[intent].append(text)
    log_probs = teacher.log_probs(texts)
    log_probs[:, [name not in texts_of for name in names]] = -np.inf  # has no text to take from
    best_two = np.argsort(log_probs, axis=1)[:, -2:]
    rng = random.Random(f"made up {len(texts)} {count}")
    synthetic = []
    for index, (text, intent) in enumerate(zip(texts, intents, strict=True)):
        second, first = (names[best] for best in best_two[index].tolist())
        rival = second if first == intent else first
        same, other = texts_of[intent], texts_of[rival]
        synthetic += [_request(text, same, other, texts, rng) for _ in range(count)]
    labels = _draw(teacher.log_probs(synthetic), names, rng)
    labelled = list(zip(synthetic, labels, strict=True))
    return [labelled[start : start + count] for start in range(0, len(labelled), count)]


def _draw(log_probs: LogProbs, names: list[str], rng: random.Random) -> list[str]:
    """One name for each row, as likely as the square of its probability."""
    weights = np.exp(log_probs.astype(np.float64))
    weights = np.where(weights < _MIN_PROBABILITY, 0.0, weights**_SHARPNESS)
    edges = weights.cumsum(axis=1)
    points = np.array([rng.random() for _ in range(len(log_probs))]) * edges[:, -1]
    return [names[index] for index in (points[:, None] >= edges).sum(axis=1).tolist()]


def _request(
    text: str, same: list[str], rival: list[str], all_texts: list[str], rng: random.Random
) -> str:
    """A part of `text`, or `text` joined with one of the same, a similar or any intent."""
    kind = rng.random()
    if kind < 0.15:
        return part(text, rng)
    others = same if kind < 0.5 else rival if kind < 0.85 else all_texts
    return joined(text, rng.choice(others), rng)


def joined(first: str, second: str, rng: random.Random) -> str:
    """The beginning of one request and the end of another, cut at about the same share of both."""
    begin, end = first.split(" "), second.split(" ")
    share = rng.uniform(0.3, 0.7)
    return " ".join(begin[: round(share * len(begin))] + end[round(share * len(end)) :]) or first


def part(text: str, rng: random.Random) -> str:
    """Some consecutive words of a request, at least half of them."""
    words = text.split(" ")
    count = max(1, round(rng.uniform(0.5, 0.9) * len(words)))
    begin = rng.randrange(len(words) - count + 1)
    return " ".join(words[begin : begin + count])
