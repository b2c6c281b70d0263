"""Masks of a batch: the same beside the step and in it, and only for rows that need one."""

import json

import numpy as np
import pytest

from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.masks import MaskFiller
from shoal.sampling.processors.grammar import Grammar

NUM_IDS = 258  # the bytes, an end token, a special one
END_ID = 256


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", b"<special>"]
    return Grammars(lambda: Vocabulary(tokens, [256, 257], lambda text: list(text.encode())))


def make(grammars: Grammars, lark: str, *, takes: bool = True) -> Grammar:
    text = json.dumps({"grammars": [{"lark_grammar": lark}]})
    assert grammars.prepare(text).result() is None
    return Grammar(grammars.matcher(text), (END_ID, 9999), NUM_IDS, takes=takes)


def allowed(grammar: Grammar) -> list[int]:
    bits = np.unpackbits(grammar.allow_mask.view(np.uint8), bitorder="little")
    assert not bits[NUM_IDS:].any(), "an id that the model does not have"
    return np.flatnonzero(bits).tolist()


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_masks_of_a_batch_are_those_of_its_rows(grammars: Grammars, num_threads: int) -> None:
    larks = ["start: /[a-f]*/", "start: /[0-9]{2}/", "start: /x|y/", "start: <[257]> /z*/"]
    batch = [make(grammars, lark) for lark in larks]
    filler = MaskFiller(NUM_IDS, num_threads)
    for _ in range(2):
        filler.start(batch)  # a second time changes nothing
    filler.join(batch)
    assert not any(grammar.needs_mask for grammar in batch)
    assert allowed(batch[0]) == [*range(ord("a"), ord("g")), END_ID]
    assert allowed(batch[1]) == list(range(ord("0"), ord("9") + 1))
    assert allowed(batch[2]) == [ord("x"), ord("y")]
    alone = [make(grammars, lark) for lark in larks]
    for grammar, other in zip(batch, alone, strict=True):
        np.testing.assert_array_equal(grammar.allow_mask, other.allow_mask)


def test_a_special_token_comes_only_where_the_grammar_names_it(grammars: Grammars) -> None:
    assert allowed(make(grammars, "start: /(.|\\n)*/"))[-1] == END_ID
    assert allowed(make(grammars, 'start: <[257]> "a"', takes=False)) == [257]


def test_forced_tokens_are_the_same_taken_or_sampled(grammars: Grammars) -> None:
    lark = 'start: "abc" /[xy]/ "de"'
    taking, sampling = make(grammars, lark), make(grammars, lark, takes=False)
    assert sampling.take_forced(9) == []
    taken = taking.take_forced(2) + taking.take_forced(9)
    assert bytes(taken) == b"abc"
    for token_id in taken:
        assert allowed(sampling) == [token_id]
        sampling.accept(token_id)
    for grammar in (taking, sampling):
        assert grammar.goes_on
        assert allowed(grammar) == [ord("x"), ord("y")]
        grammar.accept(ord("y"))
    assert bytes(taking.take_forced(9)) == b"de"
    assert taking.ended
    assert not sampling.ended
    for token_id in b"de":
        sampling.accept(token_id)
    assert sampling.ended


def test_a_token_that_is_not_allowed_is_an_error_for_good(grammars: Grammars) -> None:
    grammar = make(grammars, "start: /[ab]+/")
    grammar.accept(ord("z"))
    assert grammar.failed
    assert not grammar.needs_mask


def test_accepting_again_restores_the_state(grammars: Grammars) -> None:
    lark = 'start: ("ab" /[xy]/)* "!"'
    first = make(grammars, lark)
    said: list[int] = []
    for choice in "axayax":
        said += first.take_forced(9)
        first.accept(ord(choice))
        said.append(ord(choice))
        said += first.take_forced(9)
    again = make(grammars, lark)
    for token_id in said:
        again.accept(token_id)
    assert allowed(again) == allowed(first)


def test_a_wrong_grammar_says_what_is_wrong(grammars: Grammars) -> None:
    problem = grammars.prepare('{"grammars":[{"lark_grammar":"start: nothing"}]}').result()
    assert problem is not None
    assert "nothing" in problem
    broken = Grammars(lambda: Vocabulary([], [], lambda text: []))
    assert broken.prepare("no grammar").result()
