"""Stories told by the program: consistent, about their subject, repeatable, all gaps filled."""

from __future__ import annotations

import random
import re

import pytest

from shoal.train.config import Source
from shoal.train.prose_checks import said_words
from shoal.train.tales import read_tales, tell

_NAMES = {
    "she": ["Mia", "Lily", "Sue", "Anna"],
    "he": ["Tim", "Tom", "Ben", "Max"],
    "other": ["Zip", "Pip", "Momo", "Fluffy"],
}


@pytest.fixture(scope="module")
def told() -> list[tuple[list[str], str]]:
    return [tell(_NAMES, random.Random(seed)) for seed in range(400)]


def test_every_gap_and_choice_is_filled(told: list[tuple[list[str], str]]) -> None:
    for subjects, text in told:
        for found in (*subjects, text):
            assert not re.search(r"[\[\]{}/]|  | [.,!?]|\ba [aeio]", found), found


def test_a_story_says_its_subjects(told: list[tuple[list[str], str]]) -> None:
    counts = [said_words(subject, text) for subjects, text in told for subject in subjects]
    assert sum(said for said, _ in counts) > 0.9 * sum(wanted for _, wanted in counts)


def test_the_named_hero_stays_from_the_first_sentence_to_the_last_part(
    told: list[tuple[list[str], str]],
) -> None:
    for subjects, text in told:
        name = subjects[-1].split(" named ")[1]
        assert name in text[: len(text) // 3]
        assert name in text[len(text) // 3 :]


def test_sentences_begin_with_capitals_and_the_story_ends(
    told: list[tuple[list[str], str]],
) -> None:
    for _, text in told:
        assert text[0].isupper()
        assert text[-1] in '.!"'
        assert not re.search(r"[.!?] [a-z]", text), text


def test_the_same_seed_tells_the_same_and_others_tell_others(
    told: list[tuple[list[str], str]],
) -> None:
    assert told[7] == tell(_NAMES, random.Random(7))
    assert len({text for _, text in told}) == len(told)


def test_a_source_tells_as_many_as_it_is_asked_for_with_its_own_names() -> None:
    kinds = {"girl": "Ada Bo Cy", "boy": "Dan Ed Flo", "fox": "Gus Hip Ivy"}
    records = [
        {"text": f"There was a {kind} named {name}."}
        for kind, names in kinds.items()
        for name in names.split()
    ]
    source = Source(file="s", format="tales", options={"count": 5})
    stories = list(read_tales(records, source))
    assert len(stories) == 5
    assert all(len(variants) == 4 for variants in stories)
    known = " ".join(kinds.values()).split()
    assert all(any(name in variants[0][1].text for name in known) for variants in stories)
