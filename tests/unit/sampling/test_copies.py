"""Copies: what may come is what every answer that the schema allows begins with, and what
llguidance allows where the words of the prompt are part of the grammar."""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.open import open_model
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow
from shoal.runner.vocabulary import read_vocabulary
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.processors.grammar import Grammar
from shoal.sampling.row_grammar import build
from tests.unit.sampling.copy_grammars import (
    COPY,
    END_ID,
    TEXTS,
    TOKENS,
    copy_grammar,
    encode,
    whole_grammar,
)

ROOT = Path(__file__).parents[3]
LISTED = {"anyOf": [COPY, {"type": "array", "items": COPY, "minItems": 2, "maxItems": 8}]}


@cache
def grammars_of(name: str) -> Grammars:
    """Of a model; without a name of `TOKENS`. Rows learn from each other."""
    if not name:
        return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode), learns=True)
    if not (ROOT / "models" / name).exists():
        pytest.skip(f"{name} is not there: shoal pull")
    files = open_model(ROOT / "models" / name)
    num_ids = files.config["vocab_size"]
    return Grammars(lambda: read_vocabulary(files.tokenizer, num_ids), learns=True)


def made(grammars: Grammars, schema: Any, text: str, end_id: int = END_ID, **how: Any) -> Grammar:
    """`masked`: its tokens are drawn behind their mask. `reported`: none is taken unseen."""
    grammar = copy_grammar(schema)
    assert grammars.prepare(grammar, text).result() is None
    row = NewRow(
        0, [1], 1, [],
        SamplingParams(seed=0, grammar=grammar, copy_text=text),
        StopParams(99, end_token_ids=(end_id,)),
        OutputParams(logprobs=0 if how.get("reported") else None),
        shares_with="all",
    )  # fmt: skip
    num_ids = len(grammars._vocabulary.token_bytes)
    found = build(row, num_ids, grammars, rejects=not how.get("masked"))
    assert found is not None
    return found


def allowed(grammar: Grammar) -> set[int]:
    bits = np.unpackbits(grammar.allow_mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def copies_of(text: str) -> list[str]:
    """Runs of whole pieces that neither begin nor end with spaces."""
    pieces = re.findall(r"\w+|\s+|[^\w\s]", text)
    runs = {"".join(pieces[i:j]) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)}
    return sorted(run for run in runs if run == run.strip())


def answers_of(schema: Any, text: str) -> Iterator[str]:
    """All of them. Optional members, maps and endless arrays are not known here."""
    match schema:
        case {"x-copy": _}:
            for run in copies_of(text):
                yield json.dumps(run, ensure_ascii=False)
        case {"enum": values}:
            yield from (json.dumps(value, ensure_ascii=False) for value in values)
        case {"anyOf": options}:
            for option in options:
                yield from answers_of(option, text)
        case {"properties": members}:
            values = [list(answers_of(value, text)) for value in members.values()]
            for each in product(*values):
                pairs = zip(members, each, strict=True)
                yield "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
        case {"items": items, "minItems": fewest, "maxItems": most}:
            values = list(answers_of(items, text))
            for size in range(fewest, most + 1):
                yield from (f"[{','.join(each)}]" for each in product(values, repeat=size))


def objects(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": [*members]}


def array(items: Any, fewest: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": fewest, "maxItems": most}


SCHEMAS: list[Any] = [
    COPY,
    objects(a=COPY),
    objects(a=COPY, b=COPY),
    array(COPY, 2, 2),
    {"anyOf": [COPY, {"enum": [None, 1]}, array(COPY, 1, 1)]},
    # Behind these a string may be a copy or another one.
    {"anyOf": [COPY, {"enum": ["red", "rebel", "é", "a"]}]},
    objects(a={"anyOf": [COPY, {"enum": ["red blue"]}]}, b={"enum": ["red"]}),
    {"anyOf": [objects(a=COPY, b={"enum": [1]}), objects(a={"enum": ["red", "a"]}, c=COPY)]},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("text", TEXTS)
def test_what_may_come_is_what_some_answer_goes_on_with(schema: Any, text: str) -> None:
    grammars = grammars_of("")
    answers = sorted({answer.encode() for answer in answers_of(schema, text)})
    for seed in range(6):
        rng = random.Random(seed)
        asked = made(grammars, schema, text)
        masked = made(grammars, schema, text, masked=True, reported=True)
        said, left = b"", answers
        while not asked.ended:
            if forced := asked.take_forced(2):
                for token_id in forced:
                    assert allowed(masked) == {token_id}
                    masked.accept(token_id)
                    said += TOKENS[token_id]
                left = [answer for answer in left if answer.startswith(said)]
                assert left, (said, "is forced")
                continue
            right = going_on(left, said)
            assert allowed(masked) == right
            for token_id in rng.sample(range(len(TOKENS)), 20):
                if token_id not in right:
                    assert not asked.admits(token_id), (said, TOKENS[token_id])
            if rng.random() < 0.2:
                assert allowed(asked) == right
            token_id = rng.choice(sorted(right))
            assert asked.admits(token_id)
            asked.accept(token_id)
            masked.accept(token_id)
            said += TOKENS[token_id]
            left = [answer for answer in left if answer.startswith(said)]
        assert not asked.failed
        assert said in answers


def going_on(answers: Sequence[bytes], said: bytes) -> set[int]:
    """Tokens with which at least one of them goes on."""
    rests = {answer[len(said) : len(said) + 12] for answer in answers}
    beginnings = {rest[:size] for rest in rests for size in range(1, len(rest) + 1)}
    return {i for i, text in enumerate(TOKENS) if text in beginnings and i != END_ID}


# Of llguidance: the words of the prompt as a part of the grammar.

PROMPTS = [
    'play the song "Blue Train" by John Coltrane, please', "größe 😀😀 naïve é è 日本語 日本",
    'red\nand blue\tred and "red"  green', 'don\'t re-do 1 2 3 a.b.c ("x") ...', "a a a a b a a",
    'back\\slash C:\\new\\table "q"', "one", '"."," \' "', ' ".hello" "("x")" ',
]  # fmt: skip
WALKED: list[Any] = [
    objects(name=COPY),
    {"anyOf": [
        objects(intent={"const": name}, slots={
            "type": "object", "propertyNames": {"enum": ["song", "artist", "date"]},
            "properties": {"song": LISTED}, "additionalProperties": COPY})
        for name in ("Play", "Stop")
    ]},
    array(COPY, 2, 9),
    {"anyOf": [COPY, {"type": "null"}]},
    {"type": "object", "properties": {"a": COPY, "b": {"type": "integer"}, "c": COPY}},
]  # fmt: skip


def random_prompt(rng: random.Random) -> str:
    pieces = ["red", " ", " ", "\n", '"', "\\", "é", "a", "naïve", "😀", ",", ".", "re", "\t", "12"]
    text = "".join(rng.choices(pieces, k=rng.randrange(3, 30)))
    return text if text.strip() else "red"


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 900), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["minnow", "pilotfish", "smollm2.gguf"])
def test_it_is_what_llguidance_allows_in_the_vocabulary_of_a_model(name: str, seeds: range) -> None:
    grammars = grammars_of(name)
    num_asked = num_ended = 0
    for seed in seeds:
        rng = random.Random(seed)
        schema, text = WALKED[seed % len(WALKED)], rng.choice([*PROMPTS, random_prompt(rng)])
        asked = made(grammars, schema, text, end_id=0)
        masked = made(grammars, schema, text, end_id=0, masked=True)
        whole = grammars.memory(whole_grammar(schema, text), None).beginning
        assert not whole.is_error(), whole.get_error()
        for _ in range(50):
            for token_id in asked.take_forced(99):
                assert whole.try_consume_tokens([token_id]) == 1
                masked.accept(token_id)
            assert asked.ended == whole.is_stopped()
            if asked.ended:
                break
            ids = allowed(masked)
            bits = np.frombuffer(whole.compute_bitmask(), np.uint8)
            mask = set(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())
            assert mask <= ids, (seed, text)
            # A text that it forces is in its mask in one way only.
            assert all(whole.validate_tokens([token_id]) == 1 for token_id in ids - mask)
            texts = grammars._vocabulary.token_bytes
            token_id = rng.choice([i for i in sorted(ids) if len(texts[i]) > 1] or [*ids])
            assert asked.admits(token_id)
            asked.accept(token_id)
            masked.accept(token_id)
            assert whole.try_consume_tokens([token_id]) == 1
            num_asked += 1
        num_ended += asked.ended
    assert num_asked > 200
    assert num_ended > 30


def test_a_long_text_is_made_ready_beside_the_steps_and_kept() -> None:
    grammars = Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))
    grammar = copy_grammar(COPY)
    assert grammars.prepare(grammar, "short").result() is None
    assert grammars.prepare(grammar, "another").done()
    long = "word " * 4000
    assert grammars.prepare(grammar, long).result() is None
    assert grammars.prepare(grammar, long).done()
    assert grammars.copy_text(long) is grammars.copy_text(long)
    for i in range(20):
        assert grammars.prepare(grammar, f"word {i}").done()
        grammars.copy_text(f"word {i}")
    assert len(grammars._copy_texts) == 16
    for i in range(9):
        grammars.copy_text(f"{i} " * 40_000)
    assert sum(map(len, grammars._copy_texts)) <= 256 << 10
    assert len(grammars._compiled) == 1


def test_a_copy_is_expected_to_go_on_as_the_vocabulary_writes_it() -> None:
    grammars = Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode), learns=True)
    text = "say red blue red and more of it, which is a long text of many words to be copied from"
    schema = array(COPY, 2, 2)
    grammar = made(grammars, schema, text)
    assert grammar.take_forced(9) == encode('["')
    assert grammar.expected(9) == [], "it may be any word"
    for token_id in encode("red"):
        grammar.accept(token_id)
    assert said(grammar.expected(3)) == " blue red a"
    assert said(grammar.expected(99)).startswith(" blue red and more of it")
    for token_id in encode(" blue red an"):
        grammar.accept(token_id)
    assert said(grammar.take_forced(9)) == "d"
    assert said(grammar.expected(2)) == " m"
    for token_id in [*encode(text[text.index(" more") : -3]), *encode("ro")]:
        grammar.accept(token_id)
    assert said(grammar.take_forced(9)) == 'm","'
    assert said(grammar.expected(9)).startswith("say"), "all others are copied"


def said(token_ids: Iterable[int]) -> str:
    return b"".join(TOKENS[token_id] for token_id in token_ids).decode()


def test_what_is_forced_is_expected_by_nobody_but_sampled_first() -> None:
    grammar = made(grammars_of(""), array(COPY, 2, 2), "zebra and blue", reported=True)
    assert grammar.take_forced(9) == []
    assert allowed(grammar) == {TOKENS.index(b'["')}
    grammar.accept(TOKENS.index(b'["'))
    assert grammar.admits(ord("z"))
    grammar.accept(ord("z"))
    assert allowed(grammar) == {ord("e")}
    assert grammar.expected(9) == [], "a matcher is behind all that is forced"


def test_of_many_readings_some_are_given_up_and_the_answer_is_right() -> None:
    """Each string may be a copy or not, so that the readings of all double with each."""
    schema = array({"anyOf": [COPY, {"type": "string"}]}, 5, 5)
    grammar = made(grammars_of(""), schema, "red and blue")
    answer = '["red","and","blue","red","red and blue"]'
    for byte in answer.encode():
        if forced := grammar.take_forced(9):
            assert forced[0] == byte
            assert len(forced) == 1
            continue
        assert grammar.admits(byte)
        grammar.accept(byte)
    assert grammar.ended
    assert not grammar.failed


def test_a_token_of_the_model_with_the_name_of_a_copy_is_none() -> None:
    tokens = [*TOKENS[:END_ID], b"<|x-copy|>"]
    grammars = Grammars(lambda: Vocabulary(tokens, [END_ID], lambda text: list(text.encode())))
    grammar = made(grammars, array(COPY, 1, 1), "<|x-copy|> red")
    assert grammar.take_forced(9) == [*b'["']
    assert not grammar.admits(END_ID)
    for byte in b"<|x":
        assert grammar.admits(byte)
        grammar.accept(byte)
    assert not grammar.admits(END_ID)
