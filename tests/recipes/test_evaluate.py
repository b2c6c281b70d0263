"""The figures of the cards, computed from answers that are known."""

from __future__ import annotations

import math

import pytest

from models.recipes.minnow.evaluate import bits_per_byte, measure_following
from models.recipes.minnow.samples import GeneratedStory
from models.recipes.pilotfish.evaluate import Case, score_answers
from tests.train.builders import make_stories, make_tokenizer


def test_scores_count_intents_frames_and_unreadable_answers() -> None:
    right = {"intent": "a", "slots": {"b": "c"}}
    cases = [Case([{"role": "user", "content": str(number)}], right) for number in range(4)]
    answers = {
        "0": '{"intent":"a","slots":{"b":"c"}}',
        "1": '{"intent":"a","slots":{}}',
        "2": '{"intent":"z","slots":{"b":"c"}}',
        "3": '{"intent":"a"',
    }
    scores = score_answers(cases, lambda messages: answers[messages[0]["content"]])
    assert (scores.valid_json, scores.intent, scores.frame) == (0.75, 0.5, 0.25)


def test_bits_per_byte_of_a_uniform_model_over_parts() -> None:
    tokenizer = make_tokenizer()
    texts = make_stories()[:3]
    num_tokens = sum(
        len(tokenizer.encode(text, add_special_tokens=False).ids) + 1 for text in texts
    )
    bits = bits_per_byte(texts, tokenizer, lambda ids: -math.log(2) * (len(ids) - 1), context=16)
    assert bits == pytest.approx(num_tokens / sum(len(text) for text in texts))


def test_a_story_that_mentions_its_subject_follows_it() -> None:
    subjects = ["a cat named Max", "a kite", "sharing", "two friends and a boat"]

    def obedient(request: str | None, beginning: str, seed: int) -> GeneratedStory:
        return GeneratedStory(f"It was {request}", ended=seed > 0)

    marks = measure_following(subjects, obedient)
    assert (marks["requests"], marks["ended"]) == (4, 0.75)
    assert marks["whole_subject"] == marks["words_of_subject"] == 1.0
    assert marks["words_of_another_subject"] == 0.0
    unrelated = measure_following(
        subjects, lambda request, beginning, seed: GeneratedStory("Max sat.", True)
    )
    assert (unrelated["whole_subject"], unrelated["words_of_subject"]) == (0.0, 0.2)
