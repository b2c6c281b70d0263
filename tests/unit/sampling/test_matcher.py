"""A matcher that knows what others found says what llguidance's own says."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.matcher import Matcher, begin
from shoal.sampling.places import Places
from tests.unit.sampling.following import END_ID, NUM_IDS, TOKENS, encode

SCHEMAS: list[Any] = [
    {"enum": ["the red", "the den", "then", "tr", 12, True, ["name", None]]},
    {"type": "array", "items": {"enum": ["red", "reed", "ill"]}, "minItems": 2, "maxItems": 4},
    {"type": "object", "properties": {"name": {"type": "integer"}, "an": {"type": "boolean"}},
     "required": ["an"], "additionalProperties": False},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 3},
]  # fmt: skip
PROBE = encode("zqx")


class Library:
    """llguidance's matcher, which counts what it is asked."""

    num_calls = 0

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def deep_copy(self) -> "Library":
        return Library(self._matcher.deep_copy())

    def __getattr__(self, name: str) -> Any:
        Library.num_calls += 1
        return getattr(self._matcher, name)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))


@pytest.fixture(params=SCHEMAS, ids=str)
def compiled(request: pytest.FixtureRequest, grammars: Grammars) -> Any:
    options = {"x-guidance": {"whitespace_flexible": False}}
    grammar = json.dumps({"grammars": [{"json_schema": {**request.param, **options}}]})
    assert grammars.prepare(grammar).result() is None
    return grammars.compiled(grammar).matcher


def walk(matcher: Matcher, own: Any, rng: random.Random) -> Iterator[tuple[Matcher, Any]]:
    """Both through the same tokens, wrong ones among them."""
    for _ in range(40):
        assert matcher.is_stopped() == own.is_stopped()
        assert matcher.is_error() == own.is_error()
        assert matcher.compute_ff_tokens() == own.compute_ff_tokens()
        assert matcher.validate_tokens(PROBE) == own.validate_tokens(PROBE)
        if rng.random() < 0.3:
            assert matcher.compute_bitmask() == own.compute_bitmask()
            assert matcher.compute_ff_bytes() == own.compute_ff_bytes()
        yield matcher, own
        if own.is_stopped():
            return
        forced = own.compute_ff_tokens()
        if forced and rng.random() < 0.5:
            part = forced[: rng.randint(1, len(forced))]
            assert matcher.consume_tokens(part) == own.consume_tokens(part)
            continue
        bits = own.compute_bitmask()
        allowed = [i for i in range(NUM_IDS + 1) if bits[i >> 3] >> (i & 7) & 1]
        tokens = [rng.choice(allowed), *(rng.randrange(NUM_IDS) for _ in range(rng.randrange(3)))]
        if rng.random() < 0.3:
            tokens[0] = rng.randrange(NUM_IDS)
        if rng.random() < 0.4:
            assert matcher.consume_token(tokens[0]) == own.consume_token(tokens[0])
        else:
            assert matcher.try_consume_tokens(tokens) == own.try_consume_tokens(tokens)


@pytest.mark.parametrize("most", [5, 1 << 14])
def test_it_is_what_the_library_says(compiled: Any, most: int) -> None:
    """By many sequences, that go different ways from any place on; also where what was found is
    forgotten all the time."""
    places = Places(most)
    beginning = begin(compiled, places)
    for seed in range(60):
        rng = random.Random(seed)
        fork = rng.randrange(20)
        for step, (matcher, own) in enumerate(
            walk(beginning.deep_copy(), compiled.deep_copy(), rng)
        ):
            if step != fork:
                continue
            ahead = matcher.ahead()
            for each, other in ((matcher.deep_copy(), own.deep_copy()), (ahead, own.deep_copy())):
                for _ in walk(each, other, random.Random(seed + 1000)):
                    pass
        assert places._num <= most


def test_what_is_known_is_not_asked_again(compiled: Any) -> None:
    beginning = begin(Library(compiled), Places())  # type: ignore[arg-type]

    def follow() -> list[int]:
        matcher, said, rng = beginning.deep_copy(), list[int](), random.Random(3)
        while not matcher.is_stopped():
            if forced := matcher.compute_ff_tokens():
                matcher.consume_tokens(forced)
                said += forced
                continue
            tokens = rng.sample(range(NUM_IDS), NUM_IDS)
            said.append(next(i for i in tokens if matcher.try_consume_tokens([i])))
        return said

    first, asked = follow(), Library.num_calls
    assert follow() == first
    assert Library.num_calls == asked


def test_a_sequence_looks_ahead_without_a_copy_of_its_matcher(compiled: Any) -> None:
    matcher = begin(Library(compiled), Places())  # type: ignore[arg-type]
    own = matcher.own
    ahead = matcher.ahead()
    token_id = next(i for i in range(NUM_IDS) if ahead.try_consume_tokens([i]))
    assert matcher.own is own
    assert matcher.knows(token_id)
    assert matcher.is_known
    matcher.consume_tokens(encode("zq"))  # as of free text
    assert not matcher.is_known
    assert not matcher.knows(token_id)


def test_many_tokens_are_told_at_once_but_not_too_many(grammars: Grammars) -> None:
    grammar = json.dumps({"grammars": [{"lark_grammar": "start: /a{200}/"}]})
    assert grammars.prepare(grammar).result() is None
    beginning = begin(grammars.compiled(grammar).matcher, Places())
    token_id = ord("a")
    for _ in range(2):
        matcher = beginning.deep_copy()
        for num in range(200):
            assert matcher.try_consume_tokens([token_id]) == 1, num
            assert len(matcher._untold) < 64
    assert matcher.is_stopped()
