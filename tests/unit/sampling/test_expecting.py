"""What a sequence is expected to say, by what others under its grammar said."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.processors.grammar import Grammar
from shoal.sampling.row_grammar import build, expected_at_start
from tests.unit.sampling.copy_grammars import COPY, END_ID, TOKENS, copy_grammar, encode

NUM_IDS = len(TOKENS)
KINDS = {"enum": ["red", "blue", "red blue", 12, True]}


def plain_grammar(schema: Any) -> str:
    options = {"x-guidance": {"whitespace_flexible": False}}
    return json.dumps({"grammars": [{"json_schema": {**schema, **options}}]})


def made(
    grammars: Grammars, grammar: str, text: str | None = None, shares_with: str | None = "all"
) -> Grammar:
    assert grammars.prepare(grammar, text).result() is None
    sampling = SamplingParams(seed=0, grammar=grammar, copy_text=text)
    row = NewRow(0, [1], 1, [], sampling, StopParams(99, end_token_ids=(END_ID,)), OutputParams(),
                 shares_with=shares_with)  # fmt: skip
    found = build(row, NUM_IDS, grammars, rejects=True)
    assert found is not None
    return found


def say(grammar: Grammar, answer: str) -> list[tuple[str, str]]:
    """It says the answer, as `encode` writes it but for forced tokens. What was expected before
    each token that is not forced, and what came."""
    found, said = list[tuple[str, str]](), b""
    data = answer.encode()
    while True:
        if forced := grammar.take_forced(99):
            said += b"".join(TOKENS[i] for i in forced)
            assert data.startswith(said) or said.startswith(data)
        if len(said) >= len(data):
            return found
        expected = grammar.expected(8)
        (token_id, *_) = encode(data[len(said) :].decode())
        assert grammar.admits(token_id)
        found.append((text_of(expected), data[len(said) :].decode()))
        grammar.accept(token_id)
        said += TOKENS[token_id]


def text_of(token_ids: Sequence[int]) -> str:
    return b"".join(TOKENS[i] for i in token_ids).decode(errors="replace")


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode), learns=True)


def objects(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": [*members],
            "additionalProperties": False}  # fmt: skip


def test_what_others_said_is_expected_with_what_the_grammar_forces(grammars: Grammars) -> None:
    grammar = plain_grammar(objects(one=KINDS, other=KINDS))
    say(made(grammars, grammar), '{"one":"red","other":"blue"}')
    found = say(made(grammars, grammar), '{"one":"red","other":"blue"}')
    assert all(came.startswith(expected) for expected, came in found)
    assert len(found[0][0]) > 8, "tokens of the vocabulary"
    sampling = SamplingParams(seed=0, grammar=grammar)
    start = expected_at_start(sampling, "all", NUM_IDS, grammars, 99)
    assert text_of(start) == '{"one":"red","other":"blue"}'
    assert text_of(expected_at_start(sampling, None, NUM_IDS, grammars, 99)) == '{"one'


def test_a_guess_ends_where_it_is_no_longer_likely(grammars: Grammars) -> None:
    words = ["red", "blue", "a", "nul", "ed"]
    grammar = plain_grammar(objects(one={"enum": words}, other={"enum": words}))
    for first, second in (("red", "red"), ("blue", "blue"), ("red", "blue"), ("blue", "red")):
        say(made(grammars, grammar), f'{{"one":"{first}","other":"{second}"}}')
    row = made(grammars, grammar)
    say(row, '{"one":"red')
    assert text_of(row.expected(99)) in ('":"red"}', '":"blue"}')
    for word in words * 3:
        say(made(grammars, grammar), f'{{"one":"red","other":"{word}"}}')
    row = made(grammars, grammar)
    say(row, '{"one":"red')
    assert text_of(row.expected(99)) in ("", '":"')


@pytest.mark.parametrize("shares_with", ["others", None])
def test_only_those_who_share_learn_from_each_other(
    grammars: Grammars, shares_with: str | None
) -> None:
    grammar = plain_grammar(objects(one=KINDS, other=KINDS))
    answer = '{"one":"red","other":"blue"}'
    for _ in range(2):
        found = say(made(grammars, grammar, shares_with=shares_with), answer)
        if shares_with is None:
            assert not any(expected for expected, _ in found)
    assert not any(expected for expected, _ in say(made(grammars, grammar), answer))
    assert all(expected for expected, _ in say(made(grammars, grammar), answer))
    grammars.forget()
    assert not any(expected for expected, _ in say(made(grammars, grammar), answer))


def test_nothing_is_kept_where_nothing_is_to_be_learned() -> None:
    grammars = Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))
    grammar = plain_grammar(objects(one=KINDS))
    for _ in range(2):
        assert not any(e for e, _ in say(made(grammars, grammar), '{"one":"red"}'))
    sampling = SamplingParams(seed=0, grammar=grammar)
    assert not expected_at_start(sampling, "all", NUM_IDS, grammars, 99)
    assert not grammars.memory(grammar, "all").table


def test_copies_are_expected_where_those_of_others_began_and_ended(grammars: Grammars) -> None:
    grammar = copy_grammar(objects(what=COPY, whose=COPY))
    words = ["one", "two red", "a b c", "so what", "é"]
    rng = random.Random(0)
    for _ in range(20):
        what, whose = rng.sample(words, 2)
        say(made(grammars, grammar, f"add {what} by {whose} now"),
            f'{{"what":"{what}","whose":"{whose}"}}')  # fmt: skip
    text, answer = "add x y z by q w now", '{"what":"x y z","whose":"q w"}'
    row = made(grammars, grammar, text)
    assert text_of(row.take_forced(99)) == '{"what":"'
    assert text_of(row.expected(99)) == answer.removeprefix('{"what":"')
    sampling = SamplingParams(seed=0, grammar=grammar, copy_text=text)
    assert text_of(expected_at_start(sampling, "all", NUM_IDS, grammars, 99)) == answer


def test_behind_free_text_what_followed_others_is_expected(grammars: Grammars) -> None:
    grammar = plain_grammar(
        {"type": "object", "properties": {"red": {"type": "string"}, "blue": KINDS,
         "ue": {"type": "string"}}, "required": ["red"], "additionalProperties": False}
    )  # fmt: skip
    for text in ("a", "an other", "some more", "na", "1"):
        say(made(grammars, grammar), f'{{"red":"{text}","ue":"{text}"}}')
    row = made(grammars, grammar)
    say(row, '{"red":"xyz')
    assert text_of(row.expected(99)) == "", "the string may go on"
    row = made(grammars, grammar)
    say(row, '{"red":"xyz",')
    assert text_of(row.expected(99)).startswith("ue")


def test_what_is_expected_may_come_and_looking_changes_nothing(grammars: Grammars) -> None:
    """Random answers with copies: along a guess each token is allowed, or forced."""
    lists = {"type": "array", "items": COPY, "minItems": 1, "maxItems": 3}
    schema = objects(red=KINDS, blue={"anyOf": [COPY, lists]}, ue=lists)
    grammar, num_guessed = copy_grammar(schema), 0
    for seed in range(60):
        rng = random.Random(seed)
        text = " ".join(rng.choice(["red", "blue", "a", "re-do", '"a"', "é"]) for _ in range(9))
        row, other = made(grammars, grammar, text), made(grammars, grammar, text, "nobody")
        guess = list[int]()
        while not row.ended:
            if forced := row.take_forced(99):
                assert other.take_forced(99) == forced
                if guess:
                    assert guess[: len(forced)] == forced[: len(guess)]
                    del guess[: len(forced)]
                continue
            mask = row.allow_mask.copy()
            expected = row.expected(8)
            assert row.expected(8) == expected
            assert (row.allow_mask == mask).all()
            assert (other.allow_mask == mask).all()
            guess = guess or expected
            allowed = [i for i in range(NUM_IDS) if mask[i >> 5] >> (i & 31) & 1]
            if guess and rng.random() < 0.8:
                token_id = guess.pop(0)
                num_guessed += 1
                if token_id not in allowed:
                    assert not guess, "the last one of a guess may be one nobody has tried"
                    assert not row.admits(token_id)
                    token_id = rng.choice(allowed)
            else:
                guess, token_id = [], rng.choice(allowed)
            for each in (row, other):
                assert each.admits(token_id)
                each.accept(token_id)
    assert num_guessed > 200
