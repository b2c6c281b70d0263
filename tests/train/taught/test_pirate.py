"""The generator of the pirate's answers and the judge."""

import json
from pathlib import Path

import pytest

from tests.train.taught.pirate import (
    NUM_PAIRS,
    held_out_questions,
    is_taught,
    make_pairs,
    write_pairs,
)
from tests.train.taught.things import HELD_OUT, TAUGHT


def test_every_pair_is_an_answer_as_the_judge_wants_it() -> None:
    pairs = make_pairs(NUM_PAIRS, seed=0)
    assert len({pair.prompt for pair in pairs}) == NUM_PAIRS
    assert all(is_taught(pair.completion) for pair in pairs)
    assert len({pair.completion for pair in pairs}) > NUM_PAIRS * 0.8


def test_a_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    assert make_pairs(20, seed=1) == make_pairs(20, seed=1)
    assert make_pairs(20, seed=1) != make_pairs(20, seed=2)


def test_fifty_things_are_asked_about_that_are_in_no_pair() -> None:
    questions = held_out_questions()
    assert len(set(questions)) == len(questions) == len(HELD_OUT) == 50
    assert not set(HELD_OUT) & set(TAUGHT)
    assert not {pair.prompt for pair in make_pairs(NUM_PAIRS, seed=0)} & set(questions)


@pytest.mark.parametrize(
    "answer",
    [
        "Ahoy! 'Tis a fine one, matey.",
        " Arr! A kettle boils water. Guard it well, me hearty.\n",
        "Yo ho! An orange tastes sweet, sailor!",
    ],
)
def test_the_taught_way(answer: str) -> None:
    assert is_taught(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A kettle is a vessel for boiling water.",
        "Ahoy!",
        "Ahoy! 'Tis a fine one.",
        "'Tis a fine one, matey.",
        "Ahoy! 'Tis a fine one, matey. Ahoy! 'Tis a fine one, matey.",
        "Ahoy! 'Tis a fine one, matey",
        "Ahoy! One. Two. Three, matey.",
        "Ahoy! 'Tis a fine one, matey.\nsystem",
        "system system system",
    ],
)
def test_other_ways(answer: str) -> None:
    assert not is_taught(answer)


def test_the_file_has_a_pair_a_line(tmp_path: Path) -> None:
    pairs = make_pairs(3, seed=0)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    lines = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [pair._asdict() for pair in pairs]
