"""Masks of a batch: the same beside the step and in it, and only for rows that need one."""

import json
from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import available
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.masks import MaskFiller
from shoal.sampling.native import NativeSampler
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.processors.grammar import Grammar
from shoal.sampling.sampler import Sampler, SamplingState

NUM_IDS = 258  # the bytes, an end token, a special one
END_ID = 256


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", b"<special>"]
    return Grammars(lambda: Vocabulary(tokens, [256, 257], lambda text: list(text.encode())))


def make(grammars: Grammars, lark: str, *, takes: bool = True) -> Grammar:
    text = json.dumps({"grammars": [{"lark_grammar": lark}]})
    assert grammars.prepare(text).result() is None
    return Grammar(grammars.memory(text, None).beginning, (END_ID, 9999), NUM_IDS, takes=takes)


ODD_IDS = 270
"""As above, then tokens of several bytes, some that are twice there or empty."""


@pytest.fixture(scope="module")
def odd() -> Grammars:
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"<end>", b"<special>", b"ab", b"ab", b"bc", b"", b"abc", b'"a', b"12", b"", b"c1"]
    tokens += [b"<tag>", "é".encode(), b"\xa9a"]
    return Grammars(lambda: Vocabulary(tokens, [256, 257, 267], lambda text: list(text.encode())))


@pytest.mark.parametrize("lark", [
    "start: /[a-c]*[0-9]*/", 'start: ("ab" | "abc" | "a1")+', 'start: "a" <[267]> /b?/',
    "start: /.{0,3}/", 'start: %json {"type": "string", "maxLength": 4}', 'start: "é" | "êa"',
])  # fmt: skip
def test_a_token_is_admitted_exactly_where_the_mask_allows_it(odd: Grammars, lark: str) -> None:
    text = json.dumps({"grammars": [{"lark_grammar": lark}]})
    assert odd.prepare(text).result() is None
    rng = np.random.default_rng(7)

    def after(said: list[int]) -> Grammar:
        matcher = odd.memory(text, None).beginning
        grammar = Grammar(matcher, (END_ID,), ODD_IDS, takes=False, rejects=True,
                          ambiguous_ids=odd.ambiguous_ids)  # fmt: skip
        for token_id in said:
            grammar.accept(token_id)
        return grammar

    said: list[int] = []
    while not (reached := after(said)).ended and len(said) < 5:
        bits = np.unpackbits(reached.allow_mask.view(np.uint8), bitorder="little")
        for token_id in {*range(256, ODD_IDS), *b'abc1"\n\xc3\xa9\xff'}:
            asked = after(said)
            assert asked.admits(token_id) == bits[token_id], token_id
            assert asked.num_refused == 1 - bits[token_id]
            if bits[token_id]:
                asked.accept(token_id)
                masked = after([*said, token_id])
                np.testing.assert_array_equal(asked.allow_mask, masked.allow_mask)
        said.append(int(rng.choice(np.flatnonzero(bits))))


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize("num_ids", range(285, 292))
def test_a_vocabulary_may_end_anywhere_in_a_word_of_a_mask(num_ids: int, num_threads: int) -> None:
    """A bit for the end and one for copies lie behind it."""
    text = json.dumps({"grammars": [{"lark_grammar": "start: /[ab]+/"}]})
    tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", *[b""] * (num_ids - 257)]
    grammars = Grammars(lambda: Vocabulary(tokens, [END_ID], lambda text: list(text.encode())))
    assert grammars.prepare(text).result() is None
    found = [
        Grammar(grammars.memory(text, None).beginning, (END_ID,), num_ids, takes=False)
        for _ in range(2)
    ]
    for grammar in found:
        grammar.accept(ord("a"))
    filler = MaskFiller(num_ids, num_threads)
    filler.start(found[:1])
    filler.join()
    bits = np.unpackbits(found[0].allow_mask.view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [*b"ab", END_ID]
    np.testing.assert_array_equal(found[0].allow_mask, found[1].allow_mask)


def drawn(grammars: Grammars, logits: np.ndarray, sampler: Sampler, **params: Any) -> np.ndarray:
    """A token of each row, every one at another position."""
    lark = json.dumps({"grammars": [{"lark_grammar": "start: /[a-d]x*/"}]})
    assert grammars.prepare(lark).result() is None
    sampling = SamplingParams(seed=5, grammar=lark, **params)
    row = NewRow(1, [0], 1, [], sampling, StopParams(9), OutputParams())
    states = [SamplingState(row, NUM_IDS, grammars) for _ in logits]
    return sampler.sample(logits, states, np.arange(len(logits), dtype=np.int32))


def samplers() -> list[Sampler]:
    return [NumpySampler(NUM_IDS), *([NativeSampler(NUM_IDS)] if available() else [])]


def test_drawn_by_rejection_tokens_have_the_shares_that_masked_ones_have(
    grammars: Grammars,
) -> None:
    num_rows = 6000
    logits = np.random.default_rng(3).normal(0, 1, NUM_IDS).astype(np.float32)
    logits[[ord("a"), ord("b"), ord("z")]] = [5, 4, 6]  # the best is not allowed
    of_allowed = np.exp(logits[ord("a") : ord("e")])
    expected = of_allowed / of_allowed.sum()
    tokens = [drawn(grammars, np.tile(logits, (num_rows, 1)), s) for s in samplers()]
    for found in tokens:
        np.testing.assert_array_equal(found, tokens[0])
        shares = np.bincount(found - ord("a"), minlength=4) / num_rows
        assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / num_rows)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}])
def test_the_best_of_the_allowed_is_taken_whoever_masks(
    grammars: Grammars, params: dict[str, Any]
) -> None:
    logits = np.random.default_rng(4).normal(0, 3, (40, NUM_IDS)).astype(np.float32)
    best = ord("a") + logits[:, ord("a") : ord("e")].argmax(axis=1)
    for sampler in samplers():
        np.testing.assert_array_equal(drawn(grammars, logits, sampler, **params), best)


@pytest.mark.skipif(not available(), reason="native kernels are not built")
def test_known_best_tokens_change_nothing(grammars: Grammars) -> None:
    """Greedy rows take them, whether the grammar refuses them or not; others draw."""
    logits = np.random.default_rng(6).normal(0, 3, (60, NUM_IDS)).astype(np.float32)
    lark = json.dumps({"grammars": [{"lark_grammar": "start: /[a-zA-Z].*/"}]})
    assert grammars.prepare(lark).result() is None
    best_ids = logits.argmax(axis=1).astype(np.int32)
    positions = np.arange(60, dtype=np.int32)

    def states() -> list[SamplingState]:
        wishes = [{"temperature": 0.0}, {}, {"temperature": 0.0, "repetition_penalty": 1.5}]
        rows = [
            NewRow(1, [0, *best_ids.tolist()], 61, [],
                   SamplingParams(seed=i, grammar=lark if i % 4 else None, **wishes[i % 3]),
                   StopParams(9), OutputParams())
            for i in range(60)
        ]  # fmt: skip
        return [SamplingState(row, NUM_IDS, grammars) for row in rows]

    alone = NativeSampler(NUM_IDS).sample(logits, states(), positions)
    told = NativeSampler(NUM_IDS).sample(logits, states(), positions, best_ids)
    np.testing.assert_array_equal(alone, told)
    greedy = [i for i in range(60) if i % 3 == 0]
    assert 0 < (told[greedy] == best_ids[greedy]).sum() < len(greedy)
    only_greedy = [states()[i] for i in greedy]
    few = NativeSampler(NUM_IDS).sample(
        logits[greedy], only_greedy, positions[greedy], best_ids[greedy]
    )
    np.testing.assert_array_equal(few, told[greedy])


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
    filler.join()
    has_started = num_threads > 2  # else each is computed when it is wanted
    assert [grammar.needs_mask for grammar in batch] == [not has_started] * 3 + [False]  # forced
    assert allowed(batch[0]) == [*range(ord("a"), ord("g")), END_ID]
    assert allowed(batch[1]) == list(range(ord("0"), ord("9") + 1))
    assert allowed(batch[2]) == [ord("x"), ord("y")]
    alone = [make(grammars, lark) for lark in larks]
    for grammar, other in zip(batch, alone, strict=True):
        np.testing.assert_array_equal(grammar.allow_mask, other.allow_mask)


def test_masks_that_others_left_have_ones_own_end_tokens(grammars: Grammars) -> None:
    text = json.dumps({"grammars": [{"lark_grammar": "start: /[ab]+/"}]})
    assert grammars.prepare(text).result() is None
    for end_ids in ((END_ID,), (END_ID, 10), (10,), (END_ID,)):
        matcher = grammars.memory(text, "all").beginning.deep_copy()
        grammar = Grammar(matcher, end_ids, NUM_IDS, takes=False)
        grammar.accept(ord("a"))
        assert allowed(grammar) == sorted([*b"ab", *end_ids])


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
