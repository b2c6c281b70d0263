"""Grammars that share their rules begin alike: what is known of them before they are compiled is
what each of them says, and a row that takes it at once goes on as any other."""

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.open import open_model
from shoal.protocol.grammar import PARSER_LIMITS
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow
from shoal.runner.vocabulary import read_vocabulary
from shoal.sampling.beginnings import LIMITS
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.processors.grammar import Grammar, build
from shoal.text.grammar.copying import copy_rules, copy_terminals
from shoal.text.grammar.source import compact, lark_grammar

COPY = {"type": "string", "x-copy": "prompt"}
END_ID = 256
WORDS = ['{"', '":"', '","', '"}', '":', '":"r', '"r', "red", " red", "re", "blue", "na", "name",
         '{"name":"', '{"name":"b', "kind", '"kind"', "[", '["', "\\n", "nul", '"}}',
         "1"]  # fmt: skip
TOKENS = [*(bytes([byte]) for byte in range(256)), b"<end>", *(word.encode() for word in WORDS)]
TEXTS = ["red and blue", "r s", 'say "re",\n"red"', "é red", "{name} kind", "name name 1", "1 2 3"]
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"name": COPY}, "required": ["name"]},
    {"type": "object", "properties": {"name": COPY, "kind": {"const": "red"}}},
    {"type": "object", "properties": {"kind": {"enum": ["red", "blue"]}, "name": COPY},
     "required": ["kind", "name"]},
    {"type": "object", "properties": {"list": {"type": "array", "items": COPY, "minItems": 1}},
     "required": ["list"]},
    {"anyOf": [
        {"type": "object", "properties": {"kind": {"const": word}, "slots": {
            "type": "object", "propertyNames": {"enum": ["name", "red"]},
            "additionalProperties": COPY}}, "required": ["kind", "slots"]}
        for word in ("red", "reed", "blue")
    ]},
    {"anyOf": [{"type": "object", "properties": {"name": COPY}, "required": ["name"]},
               {"type": "object", "properties": {"name": {"const": "red"}}, "required": ["name"],
                "additionalProperties": False}]},
    {"type": "object", "properties": {"title": COPY, "name": COPY}, "required": ["title"]},
    {"type": "object", "properties": {"name": {"type": "array", "items": COPY, "maxItems": 0},
     "red": {"const": "blue"}}, "required": ["name", "red"]},
    {"anyOf": [COPY, {"type": "null"}]},
    COPY,
]  # fmt: skip


def encode(text: str) -> list[int]:
    """The longest token first."""
    data, ids = text.encode(), []
    while data:
        token = max((t for t in TOKENS if t and data.startswith(t)), key=len)
        ids.append(TOKENS.index(token))
        data = data[len(token) :]
    return ids


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))


def texts_of(schema: Any, text: str) -> tuple[str, str]:
    """(grammar, rules)"""
    rules = copy_rules(schema, compact)
    return lark_grammar(f"{rules}\n{copy_terminals(text)}"), rules


def settle(grammars: Grammars) -> None:
    """All that its thread was asked for is done."""
    for _ in range(2):  # the first may ask for more
        grammars._thread.submit(threading.Event).result()


def learned(grammars: Grammars, schema: Any) -> list[int]:
    grammar, rules = texts_of(schema, "a text of its own")
    assert grammars.prepare(grammar, rules).result() is None
    settle(grammars)
    return grammars._beginnings[rules]


def said(ids: list[int]) -> str:
    return b"".join(TOKENS[i] for i in ids).decode()


def test_what_depends_on_no_copy_is_known(grammars: Grammars) -> None:
    known = [said(learned(grammars, schema)) for schema in SCHEMAS]
    assert known == [
        "",  # a token may reach from the first byte into a copy
        "",
        '{"kind',  # a token may have more of what follows
        '{"list":',
        '{"kind',
        "",
        '{"title',
        "",  # all is forced
        "",  # a copy is first
        "",
    ]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("text", TEXTS)
def test_every_grammar_with_these_rules_begins_so(
    grammars: Grammars, schema: Any, text: str
) -> None:
    beginning = learned(grammars, schema)
    grammar, _ = texts_of(schema, text)
    own = list(grammars.matcher(grammar).compute_ff_tokens())
    assert own[: len(beginning)] == beginning, said(own)


@pytest.mark.parametrize("name", ["minnow", "pilotfish"])
def test_so_it_is_in_the_vocabulary_of_a_model(name: str) -> None:
    folder = Path(__file__).parents[3] / "models" / name
    files = open_model(folder)
    found = Grammars(lambda: read_vocabulary(files.tokenizer, files.config["vocab_size"]))
    names = ["title", "the name", "von", "größe", "a", 'say "x"', "intent", "date_of_birth", "{"]
    num_known = 0
    for seed in range(25):
        rng = random.Random(seed)
        members: dict[str, Any] = {
            key: rng.choice([COPY, COPY, {"const": rng.choice(names)}, {"enum": names[:3]},
                             {"type": "array", "items": COPY}, {"type": "integer"}])
            for key in rng.sample(names, 3)
        }  # fmt: skip
        members["last"] = COPY
        schema = {"type": "object", "properties": members, "required": rng.sample([*members], 2)}
        if seed % 3 == 0:
            schema = {"anyOf": [schema, {**schema, "required": []}]}
        beginning = learned(found, schema)
        num_known += bool(beginning)
        for text in TEXTS:
            own = found.matcher(texts_of(schema, text)[0]).compute_ff_tokens()
            assert list(own[: len(beginning)]) == beginning, (schema, text)
    assert num_known >= 10


def row(grammar: str, rules: str | None) -> NewRow:
    sampling = SamplingParams(seed=0, grammar=grammar, grammar_rules=rules)
    return NewRow(0, [1], 1, [], sampling, StopParams(99, end_token_ids=(END_ID,)), OutputParams())


def allowed(grammar: Grammar) -> list[int]:
    bits = np.unpackbits(grammar.allow_mask.view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


@pytest.mark.parametrize("schema", SCHEMAS[:8])
def test_a_row_that_began_before_its_grammar_goes_on_alike(schema: Any) -> None:
    for seed, text in enumerate(TEXTS):
        rng = random.Random(seed)
        grammars = Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))
        has_beginning = bool(learned(grammars, schema))
        grammar, rules = texts_of(schema, text)
        late = build(row(grammar, rules), len(TOKENS), grammars, rejects=bool(seed % 2))
        assert (grammar not in grammars._of_prompts) or not has_beginning
        plain = build(row(grammar, None), len(TOKENS), grammars, rejects=False)
        assert late is not None
        assert plain is not None
        for _ in range(80):
            assert late.ended == plain.ended
            if plain.ended:
                break
            ids = allowed(plain)
            assert allowed(late) == ids
            token_id = rng.choice(ids)
            assert late.admits(token_id)
            late.accept(token_id)
            plain.accept(token_id)
            for forced in late.take_forced(2):  # fewer than the other's, until it is settled
                assert allowed(plain) == [forced]
                plain.accept(forced)
        else:
            pytest.fail("it came to no end")


def test_only_who_may_wait_has_a_grammar_before_it_is_compiled(grammars: Grammars) -> None:
    learned(grammars, SCHEMAS[4])
    grammar, rules = texts_of(SCHEMAS[4], "words that no other test has")
    assert grammars.prepare(grammar, rules, may_wait=True).done()
    assert grammar not in grammars._of_prompts
    late = grammars.late_matcher(grammar, rules)
    assert late is not None
    late.finish()
    assert grammar in grammars._of_prompts
    assert grammars.late_matcher(grammar, rules) is None, "it is there"
    assert grammars.late_matcher(grammar, None) is None


def test_a_grammar_that_turns_out_wrong_behind_its_beginning_fails_its_row(
    grammars: Grammars,
) -> None:
    learned(grammars, SCHEMAS[4])
    _, rules = texts_of(SCHEMAS[4], "x")
    wrong = lark_grammar(f"{rules}\ncopy: nothing")
    late = build(row(wrong, rules), len(TOKENS), grammars, rejects=False)
    assert late is not None
    while late.take_forced(9):
        pass
    late.accept(TOKENS.index(b"r"))
    assert late.failed


def test_grammars_of_prompts_are_bounded_and_leave_the_others_alone() -> None:
    grammars = Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))
    plain = json.dumps({"grammars": [{"lark_grammar": 'start: "a"'}]})
    assert grammars.prepare(plain).result() is None
    for i in range(70):
        assert grammars.prepare(*texts_of(SCHEMAS[0], f"word {i}")).result() is None
    settle(grammars)
    assert len(grammars._of_prompts) == 64
    assert list(grammars._compiled) == [plain]
    assert len(grammars._beginnings) == 1
    for i in range(70):
        schema = {"type": "object", "properties": {f"name {i}": COPY}}
        assert grammars.prepare(*texts_of(schema, "word")).result() is None
    settle(grammars)
    assert len(grammars._beginnings) == 64


def test_rules_that_take_long_to_compile_have_no_beginning(grammars: Grammars) -> None:
    """A step would wait for them."""
    slow = {f"k{i}": {"type": "string", "pattern": f"[a-z]{{1,50}}(x{i}|y)*"} for i in range(250)}
    schema = {"type": "object", "properties": {"kind": {"enum": ["red", "blue"]}, "name": COPY,
              "more": {"type": "object", "properties": slow}}, "required": ["kind"]}  # fmt: skip
    assert learned(grammars, schema) == []
    few = {**schema, "properties": {**schema["properties"], "more": {"type": "null"}}}
    assert learned(grammars, few) != []


def test_what_the_bounds_leave_of_the_limits_is_enough_for_the_longest_words() -> None:
    """500 characters, the most that a prompt may have to be copied from without a look."""
    llguidance = pytest.importorskip("llguidance")
    text = "".join(f"{chr(0x4E00 + i)} " for i in range(250))
    used = PARSER_LIMITS | {
        "max_grammar_size": PARSER_LIMITS["max_grammar_size"] - LIMITS["max_grammar_size"],
        "initial_lexer_fuel": PARSER_LIMITS["initial_lexer_fuel"] - LIMITS["initial_lexer_fuel"],
    }
    matcher = llguidance.LLMatcher(
        llguidance.LLTokenizer("byte"),
        lark_grammar(f"start: copy\n{copy_terminals(text)}"),
        log_level=0,
        limits=llguidance.LLParserLimits(**used),
    )
    assert not matcher.is_error(), matcher.get_error()
