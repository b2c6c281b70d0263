"""Requests name what the story mentions; names of girls, boys and others stay apart."""

from __future__ import annotations

import random

from models.recipes.minnow.prose_checks import mentioned_words
from models.recipes.minnow.story_requests import (
    Features,
    extract_features,
    names_by_kind,
    request_for,
    subject_of,
)

_STORY = (
    "Once upon a time, there was a little girl named Lily. She lost her kite in the park. "
    "The kite was in a tree. Lily asked her dad for help. She hugged her dad. "
    "Lily features a ladder. She learned to share her kite with others."
)
_RARITY = {"kite": 3.0, "ladder": 4.0, "day": 0.1}


def test_hero_deed_thing_place_relative_and_lesson_are_found() -> None:
    features = extract_features(_STORY, _RARITY)
    assert (features.hero, features.name) == ("a little girl", "Lily")
    assert "lost her kite in the park" in features.deeds
    assert (features.place, features.relative, features.lesson) == (
        "in the park",
        "her dad",
        "sharing",
    )


def test_things_occur_twice_and_are_rare_elsewhere() -> None:
    story = "Tim features a kite. The kite was red. It was a day of wind."
    assert extract_features(story, _RARITY).things == ["kite"]


def test_pairs_and_names_alone_are_found() -> None:
    assert extract_features("Tom and Mia had a boat. It sank.", {}).pair == ("Tom", "Mia")
    assert extract_features("One day, Sam went home.", {}).name == "Sam"
    assert extract_features("There were birds.", {}) == Features()


def test_every_subject_is_mentioned_in_the_story() -> None:
    features = extract_features(_STORY, _RARITY)
    subjects = {subject_of(features, random.Random(seed)) for seed in range(60)}
    assert {"a little girl named Lily", "sharing"} <= subjects
    assert any(" who lost her kite" in subject for subject in subjects)
    for subject in subjects:
        mentioned, total = mentioned_words(subject, _STORY)
        assert mentioned == total > 0, subject


def test_requests_are_many_and_a_story_without_features_gets_a_plain_one() -> None:
    features = extract_features(_STORY, _RARITY)
    assert len({request_for(features, random.Random(seed)) for seed in range(60)}) > 30
    assert "story" in request_for(Features(), random.Random(1))


def test_names_of_girls_boys_and_others_are_kept_apart() -> None:
    heroes = [("a girl", "Mia"), ("a little boy", "Tim"), ("a fox", "Zip"), ("a boy", "Mommy")]
    stories = [Features(hero=hero, name=name) for hero, name in heroes]
    assert names_by_kind(stories) == {"she": ["Mia"], "he": ["Tim"], "other": ["Zip"]}
