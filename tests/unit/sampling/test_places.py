"""Places that are one have the same mask, end and forced tokens, whatever the tokens before."""

import json
import random
from typing import Any

import pytest

from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.places import Place, Places, content_of, string_in
from tests.unit.sampling.following import END_ID, TOKENS, encode
from tests.unit.sampling.test_free_text import FREE, LISTED, as_grammar

GREEK = "Δελτα".encode()


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))


def as_library(grammars: Grammars, schema: Any) -> Any:
    grammar = as_grammar(schema)
    assert grammars.prepare(grammar).result() is None
    return grammars.compiled(grammar).matcher.deep_copy()


@pytest.mark.parametrize("schema", [*FREE, *(schema for schema, _ in LISTED)])
def test_where_no_text_is_forced_the_last_token_does_not_matter(
    grammars: Grammars, schema: Any
) -> None:
    rng, num_compared = random.Random(0), 0
    for _ in range(8):
        matcher = as_library(grammars, schema)
        said: list[int] = []
        for _ in range(25):
            bits = matcher.compute_bitmask()
            allowed = [i for i, t in enumerate(TOKENS) if t and bits[i >> 3] >> (i & 7) & 1]
            if matcher.is_stopped() or not allowed:
                break
            said.append(rng.choice(allowed))
            assert matcher.consume_token(said[-1])
            other = as_library(grammars, schema)
            assert other.consume_tokens([*b"".join(TOKENS[i] for i in said)])  # byte by byte
            assert other.compute_ff_bytes() == matcher.compute_ff_bytes()
            assert other.compute_bitmask() == matcher.compute_bitmask()
            if not other.compute_ff_bytes():
                assert other.compute_ff_tokens() == matcher.compute_ff_tokens() == []
                num_compared += TOKENS[said[-1]] != TOKENS[said[-1]][-1:]
    assert num_compared > 5


def test_a_place_where_nothing_is_forced_is_known_behind_any_last_token() -> None:
    places = Places()
    beginning = places.begin(by_text=True)
    place = places.behind(beginning, b'{"a', 5)
    assert places.known_behind(beginning, b'{"a', 5) is place
    assert places.known_behind(beginning, b'{"a', 6) is None
    places.forces_nothing(place)
    assert places.known_behind(beginning, b'{"a', 6) is place
    assert places.known_behind(beginning, b'{"b', 5) is None


def go(places: Places, place: Place, text: bytes) -> Place:
    """Byte by byte."""
    for code in text:
        place = places.known_behind(place, bytes([code]), code) or places.behind(
            place, bytes([code]), code
        )
    return place


def test_in_steady_text_whole_characters_and_escapes_change_nothing() -> None:
    places = Places()
    steady = places.behind_free_text(go(places, places.begin(by_text=True), b'"zqx'))
    assert steady is not None
    assert steady.arrival is not None
    assert steady.arrival.is_free
    for text in (GREEK, "€ 𝄞 é".encode(), rb"\n\"\\", b"plain", GREEK + b"\\t" + GREEK):
        assert go(places, steady, text) is steady
    partial = go(places, steady, GREEK[:1])
    assert partial is not steady
    assert go(places, steady, GREEK + GREEK[:1]) is partial
    ended = go(places, steady, b'",')
    assert ended is not steady
    assert go(places, steady, GREEK + b'",') is ended
    for text in (b'"', b'"a', b"\\", b"\\u00e", b"\x7f", b"\n", b"\xc0\x80", b"\xed\xa0\x80"):
        assert go(places, steady, text) is not steady


def test_what_leads_back_to_a_steady_place_keeps_none_alive() -> None:
    places = Places()
    steady = places.behind_free_text(places.begin(by_text=True))
    assert steady is not None
    partial = places.behind(steady, b"\xce", 1)
    steady.lead_to(1, partial)
    partial.lead_to(2, steady)
    assert partial.behind(2) is steady
    assert partial.next[2] is not steady
    assert partial.behind(3) is None


def test_places_of_one_sequence_are_kept_for_nobody() -> None:
    places = Places(are_shared=False)
    beginning = places.begin(by_text=True)
    place = places.behind(beginning, b'{"a', 5)
    places.forces_nothing(place)
    assert places.known_behind(beginning, b'{"a', 5) is None
    assert place.string == "a"


@pytest.mark.parametrize("spelled", ["", "a", 'a"b', "\\", "\n\t", 'é"', '"', "a\\", "\x00"])
def test_the_string_in_which_a_text_ends(spelled: str) -> None:
    content = json.dumps(spelled, ensure_ascii=False).encode()[1:-1]
    assert content_of(content) == spelled
    for before in (b'"', b'{"a":"', rb'{"a\"":"', rb'["\\",""]["', rb'"\\":"'):
        assert string_in(before + content) == spelled
    assert string_in(content) is None  # it began before
    for cut in (b'"abc\\', b'"\xc3', b'"\\u00'):
        assert string_in(cut) is None
