"""What is counted of answers, and what it makes likely."""

import random
from collections.abc import Iterable

import pytest

from shoal.sampling import answers as answers_module
from shoal.sampling.answers import Answer, AnswerTable


def said(table: AnswerTable, *parts: Iterable[int] | str) -> Answer:
    """An answer of tokens, and of strings of one token a letter."""
    answer = Answer(table)
    for part in parts:
        ids = [*map(ord, part)] if isinstance(part, str) else [*part]
        answer.say(ids, in_string=isinstance(part, str))
    return answer


def test_a_guess_is_what_mostly_followed_and_its_share() -> None:
    table = AnswerTable()
    for last in (4, 4, 5, 5, 5):
        said(table, [1, 8, 2, 3, last])
    assert said(table, [9, 9, 2, 3]).guess() == (5, 3 / 5)
    assert said(table, [1, 8, 2, 3]).guess() == (5, pytest.approx(3 / 5))
    assert said(table, [9, 9, 3, 2]).guess() is None
    assert said(AnswerTable(), [1, 8, 2, 3]).guess() is None


def test_the_more_often_a_place_was_met_the_less_counts_one_with_fewer_tokens() -> None:
    table = AnswerTable()
    said(table, [1, 7, 8, 2, 3, 4])
    for _ in range(8):
        said(table, [0, 0, 0, 2, 3, 5])
    assert said(table, [9, 9, 9, 2, 3]).guess() == (5, 8 / 9)
    assert said(table, [9, 7, 8, 2, 3]).guess() == (4, pytest.approx((1 + 1 / 9) / 2))
    said(table, [1, 7, 8, 2, 3, 4])
    behind_two = 2 / 10
    assert said(table, [9, 7, 8, 2, 3]).guess() == (4, pytest.approx((2 + behind_two) / 3))


def test_all_tokens_so_far_count_also_where_the_last_ones_are_the_same() -> None:
    table = AnswerTable()
    for _ in range(5):
        said(table, [1, 9, 9, 9, 9, 4])
        said(table, [2, 9, 9, 9, 9, 5])
    assert said(table, [1, 9, 9, 9, 9]).guess() == (4, pytest.approx(5.5 / 6, abs=0.05))
    assert said(table, [2, 9, 9, 9, 9]).guess() == (5, pytest.approx(5.5 / 6, abs=0.05))


def test_behind_a_string_it_counts_only_that_there_was_one() -> None:
    table = AnswerTable()
    for text in ("red", "blue", "a long one that goes on"):
        said(table, [1, 2], text, [3, 4], text, [5])
    answer = said(table, [1, 2], "green", [3])
    assert answer.guess() == (4, 1.0)
    answer.say([4], in_string=False)
    answer.say([*map(ord, "green")], in_string=True)
    ahead = answer.ahead()
    ahead.end_string()
    assert ahead.guess() == (5, 1.0)
    assert answer.guess() != (5, 1.0), "its string goes on"


def test_of_a_string_the_first_tokens_are_guessed() -> None:
    table = AnswerTable()
    text = "a long string"
    for _ in range(2):
        said(table, [1, 2], text)
    answer = said(table, [1, 2])
    for letter in text[:8]:
        assert answer.guess() == (ord(letter), 1.0)
        answer.say([ord(letter)], in_string=True)
    assert answer.guess() is None


def test_looking_ahead_changes_nothing() -> None:
    table = AnswerTable()
    for _ in range(4):
        said(table, [*range(30)])
    answer, size = said(table, range(20)), len(table)
    ahead = answer.ahead()
    for token_id in range(20, 30):
        assert ahead.guess() == (token_id, 1.0)
        ahead.say([token_id], in_string=False, learns=False)
    assert answer.guess() == (20, 1.0)
    assert len(table) == size


def test_a_table_follows_what_is_said_lately() -> None:
    table = AnswerTable()
    for last in [5] * 500 + [6] * 70:
        said(table, [1, 2, 3, 4, last])
    guess = said(table, [1, 2, 3, 4]).guess()
    assert guess is not None
    assert guess[0] == 6


def test_what_a_table_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "_MAX_PLACES", 100)
    table, rng = AnswerTable(), random.Random(0)
    for _ in range(50):
        said(table, [1, 2, 3, 4])
        said(table, (rng.randrange(1000) for _ in range(20)))
        assert len(table) <= 103, "those of one token are added at once"
    assert said(table, [1, 2, 3]).guess() == (4, 1.0), "what is met often stays"
    for follower in range(50):
        said(table, [6, 7, follower])
    assert max(map(len, table._followers.values())) <= answers_module._MAX_FOLLOWERS
