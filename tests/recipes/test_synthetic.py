"""Synthetic requests: parts of real ones, labelled by a teacher that has read the real ones."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from models.recipes.pilotfish.readers import READERS, read_intents
from models.recipes.pilotfish.synthetic import joined, label_synthetic, part
from models.recipes.pilotfish.teachers import Ensemble, LogProbs, mean_log_probs
from shoal.train.config import Recipe, RecipeError, Source
from shoal.train.corpora import read_corpus
from shoal.train.pieces import ReadContext
from tests.train.builders import write_jsonl

THINGS = ("ball", "boat", "lamp", "shirt", "phone", "car", "chair", "book")
PATTERNS = {
    "buy": "i would like to buy a {}",
    "sell": "who will take my old {} for money",
    "mend": "the {} is broken and must be mended",
}
TEXTS = [pattern.format(thing) for pattern in PATTERNS.values() for thing in THINGS]
INTENTS = [intent for intent in PATTERNS for _ in THINGS]
RECORDS = [{"text": text, "intent": intent} for text, intent in zip(TEXTS, INTENTS, strict=True)]


TEACHER = Ensemble(TEXTS, INTENTS)
CONTEXT = ReadContext(Path(), ())


class Fixed(NamedTuple):
    """A teacher that says what it is given."""

    names: list[str]
    given: LogProbs

    def log_probs(self, texts: list[str]) -> LogProbs:
        return self.given[: len(texts)].copy()


def test_the_teacher_labels_new_requests_and_says_how_sure_it_is() -> None:
    clear, mixed = np.exp(TEACHER.log_probs(["The ladder is BROKEN", "buy broken money"]))
    assert clear.sum() == pytest.approx(1.0, abs=1e-5)
    assert clear[sorted(PATTERNS).index("mend")] > 0.8 > mixed.max()


def test_teachers_that_differ_are_sure_of_nothing() -> None:
    sure = np.log(np.array([[0.98, 0.01, 0.01]], np.float32))
    assert np.exp(mean_log_probs([sure, sure])) == pytest.approx(np.exp(sure), abs=1e-6)
    assert np.exp(mean_log_probs([sure, sure[:, ::-1]])).max() < 0.5


def test_synthetic_requests_are_parts_of_real_ones_the_same_each_time() -> None:
    synthetic = label_synthetic(TEXTS, INTENTS, 12, TEACHER)
    assert synthetic == label_synthetic(TEXTS, INTENTS, 12, TEACHER)
    assert [len(group) for group in synthetic] == [12] * len(TEXTS)
    words = {word for text in TEXTS for word in text.split()}
    new = {text for group in synthetic for text, _ in group} - set(TEXTS)
    assert len(new) > len(TEXTS)
    assert all(words.issuperset(text.split()) for text in new)


def test_a_label_is_drawn_by_the_square_of_its_probability() -> None:
    log_probs = np.log(np.array([[0.7, 0.29, 0.01]], np.float32)).repeat(5000, axis=0)
    synthetic = label_synthetic(
        TEXTS, INTENTS, 4000 // len(TEXTS) + 1, Fixed(sorted(PATTERNS), log_probs)
    )
    drawn = Counter(intent for group in synthetic for _, intent in group)
    first, second, unlikely = sorted(PATTERNS)
    assert drawn[first] / drawn.total() == pytest.approx(0.7**2 / (0.7**2 + 0.29**2), abs=0.03)
    assert drawn[second] > 0
    assert drawn[unlikely] == 0


def test_a_request_made_of_two_may_get_the_intent_of_the_second() -> None:
    synthetic = label_synthetic(TEXTS, INTENTS, 12, TEACHER)
    pairs = zip(INTENTS, synthetic, strict=True)
    labels = {(first, intent) for first, group in pairs for _, intent in group}
    assert {intent for _, intent in labels} == set(PATTERNS)
    assert any(first != intent for first, intent in labels)


def test_variants_hold_the_synthetic_requests_with_their_labels() -> None:
    documents = list(read_intents(RECORDS, Source(file="c", options={"synthetic": 12}), CONTEXT))
    plain = list(read_intents(RECORDS, Source(file="c"), CONTEXT))
    synthetic = label_synthetic(TEXTS, INTENTS, 12, TEACHER)
    assert [len(more) - len(few) for more, few in zip(documents, plain, strict=True)] == [
        len(group) for group in synthetic
    ]


def test_the_teacher_does_not_read_held_out_requests(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "c.jsonl", [*RECORDS, {"text": "hum a tune", "intent": "sing"}])
    source = Source(
        file="c.jsonl", format="intents", options={"synthetic": 4}, hold_out={"intent": ["sing"]}
    )
    corpus = read_corpus(Recipe(name="test", sources=(source,)), tmp_path, READERS)
    assert len(corpus.held_out["c"]) == 1
    texts = [part.text for document in corpus.train for v in document.variants for part in v]
    assert not any("sing" in text or "tune" in text for text in texts)


def test_without_scikit_learn_the_recipe_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "models.recipes.pilotfish.synthetic", None)
    with pytest.raises(RecipeError, match="synthetic needs scikit-learn"):
        list(read_intents(RECORDS, Source(file="c", options={"synthetic": 2}), CONTEXT))


def test_joined_requests_begin_with_one_and_end_with_the_other() -> None:
    first, second = "how much money is left in my account", "tell me the balance of my savings"
    texts = {joined(first, second, random.Random(seed)) for seed in range(40)}
    assert len(texts) > 3
    assert all(text.startswith("how much") and text.endswith("my savings") for text in texts)
    assert joined("yes", "no", random.Random(1)) in {"yes", "no"}


def test_a_part_is_at_least_half_of_the_words_in_their_order() -> None:
    text = "how much money is left in my account"
    for seed in range(40):
        words = part(text, random.Random(seed))
        assert words in text
        assert len(words.split()) >= 4
    assert part("yes", random.Random(1)) == "yes"
