"""Made-up requests: of words really said, named by a judge that has read the real ones."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from shoal.train.commands import read_intents
from shoal.train.config import Recipe, RecipeError, Source
from shoal.train.corpora import read_corpus
from shoal.train.judges import Committee, Odds, mean_odds
from shoal.train.made_up import joined, make_up, part
from tests.train.builders import write_jsonl

THINGS = ("ball", "boat", "lamp", "shirt", "phone", "car", "chair", "book")
SAID = {
    "buy": "i would like to buy a {}",
    "sell": "who will take my old {} for money",
    "mend": "the {} is broken and must be mended",
}
TEXTS = [pattern.format(thing) for pattern in SAID.values() for thing in THINGS]
INTENTS = [intent for intent in SAID for _ in THINGS]
RECORDS = [{"text": text, "intent": intent} for text, intent in zip(TEXTS, INTENTS, strict=True)]


JUDGE = Committee(TEXTS, INTENTS)


class Known(NamedTuple):
    """A judge that says what it is told to say."""

    names: list[str]
    said: Odds

    def odds(self, texts: list[str]) -> Odds:
        return self.said[: len(texts)].copy()


def test_the_judge_names_requests_that_nobody_made_and_says_how_sure_it_is() -> None:
    clear, mixed = np.exp(JUDGE.odds(["The ladder is BROKEN", "buy broken money"]))
    assert clear.sum() == pytest.approx(1.0, abs=1e-5)
    assert clear[sorted(SAID).index("mend")] > 0.8 > mixed.max()


def test_judges_that_differ_are_sure_of_nothing() -> None:
    sure = np.log(np.array([[0.98, 0.01, 0.01]], np.float32))
    assert np.exp(mean_odds([sure, sure])) == pytest.approx(np.exp(sure), abs=1e-6)
    assert np.exp(mean_odds([sure, sure[:, ::-1]])).max() < 0.5


def test_made_up_requests_are_pieces_of_real_ones_the_same_each_time() -> None:
    made = make_up(TEXTS, INTENTS, 12, JUDGE)
    assert made == make_up(TEXTS, INTENTS, 12, JUDGE)
    assert [len(found) for found in made] == [12] * len(TEXTS)
    words = {word for text in TEXTS for word in text.split()}
    new = {text for found in made for text, _ in found} - set(TEXTS)
    assert len(new) > len(TEXTS)
    assert all(words.issuperset(text.split()) for text in new)


def test_an_intent_is_drawn_by_the_square_of_its_odds() -> None:
    odds = np.log(np.array([[0.7, 0.29, 0.01]], np.float32)).repeat(5000, axis=0)
    made = make_up(TEXTS, INTENTS, 4000 // len(TEXTS) + 1, Known(sorted(SAID), odds))
    drawn = Counter(intent for found in made for _, intent in found)
    first, second, unlikely = sorted(SAID)
    assert drawn[first] / drawn.total() == pytest.approx(0.7**2 / (0.7**2 + 0.29**2), abs=0.03)
    assert drawn[second] > 0
    assert drawn[unlikely] == 0


def test_a_request_made_of_two_may_get_the_intent_of_the_second() -> None:
    made = make_up(TEXTS, INTENTS, 12, JUDGE)
    pairs = zip(INTENTS, made, strict=True)
    named = {(first, intent) for first, found in pairs for _, intent in found}
    assert {intent for _, intent in named} == set(SAID)
    assert any(first != intent for first, intent in named)


def test_readings_hold_the_made_up_requests_with_their_intents() -> None:
    documents = list(read_intents(RECORDS, Source(file="c", options={"made_up": 12})))
    plain = list(read_intents(RECORDS, Source(file="c")))
    made = make_up(TEXTS, INTENTS, 12, JUDGE)
    assert [len(more) - len(few) for more, few in zip(documents, plain, strict=True)] == [
        len(found) for found in made
    ]


def test_the_judge_does_not_read_held_out_requests(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "c.jsonl", [*RECORDS, {"text": "hum a tune", "intent": "sing"}])
    source = Source(
        file="c.jsonl", format="intents", options={"made_up": 4}, hold_out={"intent": ["sing"]}
    )
    corpus = read_corpus(Recipe(name="test", sources=(source,)), tmp_path)
    assert len(corpus.held_out["c"]) == 1
    learned = [piece.text for document in corpus.train for v in document.variants for piece in v]
    assert not any("sing" in text or "tune" in text for text in learned)


def test_without_scikit_learn_the_recipe_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "shoal.train.made_up", None)
    with pytest.raises(RecipeError, match="made_up needs scikit-learn"):
        list(read_intents(RECORDS, Source(file="c", options={"made_up": 2})))


def test_joined_requests_begin_with_one_and_end_with_the_other() -> None:
    first, second = "how much money is left in my account", "tell me the balance of my savings"
    found = {joined(first, second, random.Random(seed)) for seed in range(40)}
    assert len(found) > 3
    assert all(text.startswith("how much") and text.endswith("my savings") for text in found)
    assert joined("yes", "no", random.Random(1)) in {"yes", "no"}


def test_a_part_is_at_least_half_of_the_words_in_their_order() -> None:
    text = "how much money is left in my account"
    for seed in range(40):
        found = part(text, random.Random(seed))
        assert found in text
        assert len(found.split()) >= 4
    assert part("yes", random.Random(1)) == "yes"
