"""Free text under a grammar: everything is allowed, forced and ended as by a matcher that is asked
about each token, and in long strings it is not asked."""

import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shoal.sampling.free_text import FreeText, free_text_in, free_text_of
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.processors.grammar import Grammar
from tests.conformance.random_schemas import random_schema
from tests.unit.sampling.following import (
    END_ID,
    NUM_IDS,
    TOKENS,
    allowed,
    encode,
    make,
    walk,
)

if TYPE_CHECKING:
    from llguidance import LLMatcher


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))


def as_grammar(schema: Any, **options: Any) -> str:
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_flexible": False, **options}, **schema}
    return json.dumps({"grammars": [{"json_schema": schema}]}, ensure_ascii=False)


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


STRING = {"type": "string"}
FREE: list[Any] = [
    STRING,
    {"type": "object"},
    obj(name=STRING, red={"enum": ["the red den", "the", 'a "', 12]}, and_=STRING),
    {"type": "object", "properties": {"name": {"type": "number"}, "the red": {"const": "the"}},
     "additionalProperties": STRING},
    {"anyOf": [obj(kind={"const": "the red"}, name=STRING), obj(kind=STRING, red={"enum": [1]})]},
    obj(name={"type": "string", "minLength": 9}, an={"anyOf": [STRING, {"enum": ["and the"]}]}),
    {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/the"}, {"type": "integer"}]},
     "$defs": {"the": {"type": "string", "title": "x" * 99}}, "minItems": 2},
    {"allOf": [{"type": "string", "minLength": 2}, {"type": "string"}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", FREE)
def test_the_same_tokens_are_allowed_forced_and_ended(grammars: Grammars, schema: Any) -> None:
    grammar = as_grammar(schema)
    assert grammars.compiled(grammar).free_text is not None
    assert sum(walk(grammars, grammar, seed) for seed in range(80)) > 200


LISTED: list[tuple[Any, list[str]]] = [
    (FREE[4], ['{"kind":"the red"', '{"kind":"red"', '{"kind":"the', '{"kind":"and"', 'x"', '",']),
    (FREE[2], ['"the red den"', '"the', '"red"', '"the", "and', '"an', '","red":"the"', '"an"}']),
    (FREE[3], ['{"name":', '"an":"', '"the red":', '"red":"', '"nanam"', '"ill",', '"name']),
    (FREE[5], [
        '{"name":"the', ' and the red an"', ' and', '"', '","an":"and the"}', '"the"', "an",
    ]),
    ({"type": "array", "items": {"anyOf": [
        {"type": "array", "prefixItems": [{"const": "the"}, {"type": "integer"}], "minItems": 2},
        {"type": "array", "prefixItems": [STRING, STRING], "minItems": 2}]}},
     ['["the",', '["an",', '["n the",', '["red', '",', '1', '"ill"],', '"an', '["then"']),
    ({"anyOf": [
        {"type": "array", "prefixItems": [{"const": "\nthe"}, {"type": "integer"}], "minItems": 2},
        {"type": "array", "prefixItems": [STRING, STRING], "minItems": 2}]},
     ['["\\nthe",', '["\\nan",', '["the",', '["\\nthe', '["\\nred', '",', "1]", '"an"]']),
    (obj(name={"type": "string", "minLength": 6}), ['{"name":"the"}', '{"name":"the red den"}']),
]  # fmt: skip
"""Schemas in which what follows a string depends on the string, and texts of theirs."""


@pytest.mark.parametrize(("schema", "texts"), LISTED)
def test_what_follows_a_short_string_depends_on_whether_it_is_listed(
    grammars: Grammars, schema: Any, texts: list[str]
) -> None:
    grammar = as_grammar(schema)
    assert grammars.compiled(grammar).free_text is not None
    for seed in range(80):
        walk(grammars, grammar, seed, num_tokens=30, texts=texts)


def without_limits(part: Any) -> Any:
    if isinstance(part, dict):
        return {k: without_limits(v) for k, v in part.items()
                if k not in ("maxLength", "pattern", "format")}  # fmt: skip
    return [without_limits(item) for item in part] if isinstance(part, list) else part


def test_random_schemas_are_followed_in_the_same_way(grammars: Grammars) -> None:
    num_free = 0
    for seed in range(40):
        num_free += walk(grammars, as_grammar(without_limits(random_schema(seed))), seed)
        walk(grammars, as_grammar(random_schema(seed)), seed)
    assert num_free > 100


@pytest.mark.parametrize("schema", [
    {"type": "string", "maxLength": 400}, {"type": "string", "pattern": "[a-z]*"},
    {"type": "string", "format": "date"}, obj(a={"patternProperties": {"a": STRING}}),
    {"type": "object", "propertyNames": {"type": "string"}}, {"anyOf": [STRING, {"not": STRING}]},
    {"enum": ["a zqx jqz wqx b"]}, {"type": "string", "minLength": 2.0}, {"type": "string", "x": 1},
    {"items": [STRING]}, {"anyOf": STRING}, {"properties": []}, {"x-guidance": 1}, "text",
])  # fmt: skip
def test_a_schema_that_may_limit_its_strings_has_no_free_text(schema: Any) -> None:
    free_text = free_text_of(TOKENS, encode, frozenset())
    assert free_text is not None
    assert free_text_in(as_grammar(schema), free_text) is None


def test_another_grammar_has_no_free_text() -> None:
    free_text = free_text_of(TOKENS, encode, frozenset())
    assert free_text is not None
    assert free_text_in(as_grammar(STRING, whitespace_pattern="[ a-z]*"), free_text) is None
    lark = json.dumps({"grammars": [{"lark_grammar": 'start: %json {"type": "string"}'}]})
    assert free_text_in(lark, free_text) is None
    two = json.dumps({"grammars": [{"json_schema": STRING}, {"json_schema": STRING}]})
    assert free_text_in(two, free_text) is None


def test_strings_become_steady_behind_the_longest_that_is_listed_or_too_short() -> None:
    free_text = free_text_of(TOKENS, encode, frozenset())
    assert free_text is not None

    def steady_after(schema: Any) -> int:
        found = free_text_in(as_grammar(schema), free_text)
        assert found is not None
        return found.steady_after

    assert steady_after(STRING) == steady_after(True) == -1
    assert steady_after({"type": "string", "description": "long" * 9}) == -1
    assert steady_after({"anyOf": [STRING, {"enum": [1, None]}]}) == -1
    assert steady_after({"anyOf": [STRING, {"const": ""}]}) == 0
    assert steady_after({"type": "string", "minLength": 30}) == 29
    assert steady_after({"anyOf": [STRING, {"enum": ["a", {"bc": ["éé" * 3]}]}]}) == 6
    assert steady_after(obj(a=STRING, description=STRING)) == len("description")
    assert steady_after({"$ref": "#/$defs/a", "$defs": {"a": {"const": "four"}}}) == 4


@pytest.mark.parametrize("schema", [
    {**STRING, "minLength": 40}, {"anyOf": [{**STRING, "minLength": 25}, {"enum": ["ab", 3]}]},
    {"anyOf": [{**STRING, "minLength": 9}, obj(the={**STRING, "minLength": 30}), {"const": "zqx"}]},
])  # fmt: skip
def test_what_may_follow_stays_the_same_as_long_as_it_is_said(
    grammars: Grammars, schema: Any
) -> None:
    grammar = as_grammar(schema)
    compiled = grammars.compiled(grammar)
    assert isinstance(compiled.free_text, FreeText)
    rng, long = random.Random(0), 0
    for _ in range(40):
        text = "".join(rng.choice("abthezqxé ") for _ in range(45))
        masks = [mask_behind(compiled.matcher, '"' + text[:n]) for n in range(len(text))]
        for n, mask in enumerate(masks):
            stays = compiled.free_text.stays(text[:n])
            assert all(other == mask for other in masks[n : n + stays + 1])
            long += stays > 5
    assert long > 100


def test_a_mask_that_another_left_in_a_string_stays_no_longer_than_ones_own(
    grammars: Grammars,
) -> None:
    grammar = as_grammar(obj(the={**STRING, "minLength": 40}))
    compiled = grammars.compiled(grammar)
    how = {"takes": True, "rejects": True}
    pair = [make(grammars, grammar, compiled.free_text, **how)[0] for _ in range(2)]
    for followed in pair:
        assert followed.take_forced(9) == encode('{"the":')
        followed.accept(ord('"'))
    for num_said in range(40):
        said = ("ab" * 20)[:num_said]
        mask = mask_behind(compiled.matcher, '{"the":"' + said)[: -(-NUM_IDS // 8)]
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=NUM_IDS)
        most = 40 - 1 - pair[0]._free_text.most_before_end - num_said
        for followed in pair:
            assert not followed.admits(ord('"'))
            followed.keep_mask()
            assert allowed(followed) == np.flatnonzero(bits).tolist()
            stays = followed.text.until_look(is_mask_known=True)
            assert stays == (max(most, 0) if said else 0)  # so far it may be "the"
        for followed in pair:
            followed.accept(ord("ab"[num_said % 2]))
    assert all(followed.admits(ord('"')) for followed in pair)


@pytest.mark.parametrize(
    "listed", [("the red den", "th", "zq"), ("anna", ""), ("\u00f2d", 'a "', "12", "the the")]
)
@pytest.mark.parametrize("least_chars", [0, 1, 2, 4])
def test_the_plain_tokens_are_known_behind_which_a_string_still_waits(
    listed: tuple[str, ...], least_chars: int
) -> None:
    texts = [bytes([n]) for n in range(256)] + [
        b"th", b"the", b" the", b"the red", b" den", b"an", b"anna", b"na", b"a", b"the ",
        "\u00f2".encode(), "\u00f2d".encode(), b'the"', b"zqx jqz wqx", b"12", b"e",
    ]  # fmt: skip
    spell = {bytes([n]): n for n in range(256)}
    found = free_text_of(texts, lambda text: [spell[bytes([c])] for c in text.encode()], set())
    assert found is not None
    free_text = found._replace(
        listed=listed, least_chars=least_chars, steady_after=max(least_chars - 1, 12)
    )
    plain = [i for i, num_chars in enumerate(free_text.num_chars) if num_chars]
    for string in ("", "t", "th", "the", "the red", "an", "zq", "q", "\u00f2", "the the", "a"):
        wanted = {i for i in plain if free_text.waits(string + texts[i].decode()) >= 0}
        named = free_text.not_steady_behind(string)
        if named is None:
            assert len(string) + 1 < least_chars
        else:
            assert {*named} == wanted
    assert free_text.not_steady_behind(None) == []


def mask_behind(beginning: "LLMatcher", string: str) -> bytes:
    matcher = beginning.deep_copy()
    assert matcher.consume_tokens(encode(string))
    mask: bytes = matcher.compute_bitmask()
    return mask


def test_plain_tokens_are_whole_characters_of_a_string() -> None:
    found = free_text_of(TOKENS, encode, frozenset([TOKENS.index(b"the")]))
    assert found is not None
    plain = {TOKENS[i] for i, n in enumerate(found.num_chars) if n}
    assert {b"a", b" red", " é".encode(), b"{", b"12", b"the"} <= plain  # "the" is there twice
    assert not plain & {b'"', b' "', b"\\n", b"\n", b"\\", b"\x7f", b"\xc3", b"\xa9a", b'["', b""}
    assert found.num_chars[TOKENS.index(" é".encode())] == 2
    assert free_text_of([b"a"], lambda _: [0], frozenset()) is None  # cannot spell the probe


def test_a_token_of_too_many_characters_to_count_is_not_plain() -> None:
    tokens = [*TOKENS, b"a" * 255, b"a" * 256, b"a" * 3000]
    found = free_text_of(tokens, encode, frozenset())
    assert found is not None
    assert list(found.num_chars[-3:]) == [255, 0, 0]


@pytest.mark.parametrize(("schema", "most"), [(STRING, 0), ({**STRING, "minLength": 999}, 6)])
@pytest.mark.parametrize("how", [{"takes": True, "rejects": True}, {"takes": True}])
def test_in_a_long_string_the_matcher_is_left_alone(
    grammars: Grammars, schema: Any, most: int, how: dict[str, bool]
) -> None:
    grammar = as_grammar(schema)
    followed, matcher = make(grammars, grammar, grammars.compiled(grammar).free_text, **how)
    asks = how.get("rejects", False)

    def say(text: str) -> None:
        for token_id in encode(text):
            assert followed.admits(token_id) if asks else token_id in allowed(followed)
            followed.accept(token_id)

    say('"abc')
    before = matcher.num_calls
    say("free text " * 20)
    assert matcher.num_calls - before <= most
    if not most:
        say('"')
        assert followed.ended


def test_a_string_is_free_from_its_beginning_on(grammars: Grammars) -> None:
    """Between two strings of a list the matcher is asked about one token, and whether it is in free
    text behind it."""
    grammar = as_grammar({"type": "array", "items": STRING, "minItems": 99})
    free_text = grammars.compiled(grammar).free_text
    followed, matcher = make(grammars, grammar, free_text, takes=True, rejects=True)
    between = TOKENS.index(b'","')
    assert followed.take_forced(9) == encode("[")
    followed.accept(encode('"')[0])
    for _ in range(5):
        before = matcher.num_calls
        for token_id in [*encode("free"), between]:
            assert followed.admits(token_id)
            followed.accept(token_id)
            assert not followed.take_forced(9)
        assert matcher.num_calls == before + 2


def test_a_token_that_ends_the_answer_is_never_free_text(grammars: Grammars) -> None:
    """It is the end, not the text that it spells, as without free text."""
    grammar, stop = as_grammar({"type": "object"}), encode("x")[0]
    assert grammars.prepare(grammar).result() is None
    for free_text in (grammars.compiled(grammar).free_text, None):
        matcher = grammars.memory(grammar, None).beginning
        followed = Grammar(matcher, (END_ID, stop), NUM_IDS, takes=True, rejects=True,
                           free_text=free_text)  # fmt: skip
        for token_id in encode('{"abcdef'):
            assert followed.admits(token_id)
            followed.accept(token_id)
        followed.accept(stop)
        assert followed.failed
