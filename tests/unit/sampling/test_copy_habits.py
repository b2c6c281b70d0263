"""Where copies are likely to begin and to end, by those of other answers."""

import random

import pytest

from shoal.sampling import copy_habits as habits_module
from shoal.sampling.copies import Copy, CopyText
from shoal.sampling.copy_habits import CopyHabits
from shoal.sampling.token_table import TokenTable

NAMES = ["Anna", "Björk", "Sigur Rós", "John Coltrane", "the Who", "Queen"]
TITLES = ["Blue Train", "So What", "A", "Hey Jude", "One More Time"]


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable([bytes([byte]) for byte in range(256)], [], lambda text: list(text.encode()))


def copy_of(text: CopyText, part: str) -> Copy:
    copy = text.beginning.behind(part.encode())
    assert copy is not None
    return copy


def taught(table: TokenTable, num: int = 60) -> CopyHabits:
    habits, rng = CopyHabits(), random.Random(0)
    for _ in range(num):
        name, title = rng.choice(NAMES), rng.choice(TITLES)
        text = CopyText(f"please play {title} by {name} now", table)
        habits.learn(b'title":"', copy_of(text, title), [])
        habits.learn(b'artist":"', copy_of(text, name), [])
    return habits


def test_a_copy_begins_behind_the_words_that_others_began_behind(table: TokenTable) -> None:
    habits = taught(table)
    text = CopyText("please play Paranoid Android by Radiohead now", table)
    begins = habits.beginning(b'artist":"', text, [])
    assert begins is not None
    assert text.data[begins[0] :].startswith(b"Radiohead")
    assert begins[1] > 0.5
    begins = habits.beginning(b'title":"', text, [])
    assert begins is not None
    assert text.data[begins[0] :].startswith(b"Paranoid")
    assert habits.beginning(b'other":"', text, []) is None


def test_a_word_that_others_copied_is_likely_wherever_it_stands(table: TokenTable) -> None:
    habits = CopyHabits()
    for before in ("on", "with", "via", "from", "at"):
        text = CopyText(f"play it {before} spotify", table)
        habits.learn(b"", copy_of(text, "spotify"), [])
    text = CopyText("spotify should play it for me", table)
    begins = habits.beginning(b"", text, [])
    assert begins is not None
    assert begins[0] == 0


def test_what_was_copied_before_is_not_likely_again(table: TokenTable) -> None:
    habits = taught(table)
    text = CopyText("play it by Radiohead or by Blur", table)
    first = text.data.index(b"Radiohead")
    begins = habits.beginning(b'artist":"', text, [(first, first + 9)])
    assert begins is not None
    assert text.data[begins[0] :].startswith(b"Blur")


def test_a_copy_ends_before_the_words_that_others_ended_before(table: TokenTable) -> None:
    habits = taught(table)
    text = CopyText("please play Paranoid Android by The Radio Heads now", table)

    def end_of(word: bytes) -> int:
        return text.data.index(word) + len(word)

    assert habits.ending(b'title":"', text, end_of(b"Android")) > 0.9
    assert habits.ending(b'title":"', text, end_of(b"Paranoid")) < 0.5
    assert habits.ending(b'artist":"', text, end_of(b"Heads")) > 0.9
    assert habits.ending(b'artist":"', text, end_of(b"Radio")) < 0.5
    assert habits.ending(b'artist":"', text, end_of(b"now")) == 1.0
    assert habits.ending(b'other":"', text, end_of(b"Radio")) == 0.0


def test_long_texts_are_not_looked_at(table: TokenTable) -> None:
    habits = taught(table)
    before, text = len(habits), CopyText("play it by Anna " * 100, table)
    habits.learn(b'artist":"', copy_of(text, "Anna"), [])
    assert len(habits) == before
    assert habits.beginning(b'artist":"', text, []) is None
    assert habits.ending(b'artist":"', text, text.ends[5]) == 0.0


def test_what_is_kept_is_bounded(table: TokenTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(habits_module, "_MAX_COUNTS", 400)
    habits, rng = CopyHabits(), random.Random(0)
    for number in range(300):
        words = [f"w{rng.randrange(10_000)}" for _ in range(8)]
        text = CopyText(" ".join(["by", *words, "now"]), table)
        key = b"often" if number % 2 else f"key {number}".encode()
        habits.learn(key, copy_of(text, words[0]), [])
        assert len(habits) <= 400
        assert len(habits) == sum(map(len, habits._keys.values()))
    begins = habits.beginning(b"often", CopyText("go on by someone now", table), [])
    assert begins is not None
    assert begins[0] == len("go on by ")
