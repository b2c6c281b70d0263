"""The texts that copies come from: where a copy may be, and what must follow."""

import json
import random
import re

import pytest

from shoal.sampling.copies import CopyText
from shoal.sampling.token_table import TokenTable
from tests.unit.sampling.copy_grammars import END_ID, TEXTS, TOKENS, encode


def table() -> TokenTable:
    return TokenTable(TOKENS, [END_ID], encode)


@pytest.mark.parametrize(
    "words", [["a"], ["red", "re", "ed", '"', "\u00e9"], ["a", "b", "red\n", "."]]
)
def test_places_of_a_long_text_are_all_that_there_are(words: list[str]) -> None:
    for seed in range(5):
        rng = random.Random(seed)
        text = " ".join(rng.choices(words, k=120))
        copied = CopyText(text, table())
        data = json.dumps(text, ensure_ascii=False)[1:-1].encode()[: len(copied.data)]
        starts = [len(json.dumps(text[: match.start()], ensure_ascii=False)[1:-1].encode())
                  for match in re.finditer(r"\w+|[^\w\s]", text)]  # fmt: skip
        ends = {len(json.dumps(text[: match.end()], ensure_ascii=False)[1:-1].encode())
                for match in re.finditer(r"\w+|[^\w\s]", text)}  # fmt: skip
        at, size, copy = rng.choice(starts), 0, copied.beginning
        while size < 40 and at + size < len(data):
            piece = data[at + size : at + size + rng.randrange(1, 4)]
            assert copied.continuations(copy.places) == {
                i for i, token in enumerate(TOKENS) if token and i != END_ID
                and any(data.startswith(token, place) for place in [*copy.places])
            }  # fmt: skip
            wrong = copy.behind(b"zz")
            assert wrong is None
            found = copy.behind(piece)
            assert found is not None
            size, copy = size + len(piece), found
            said = data[at : at + size]
            places = [start + size for start in starts if data.startswith(said, start)]
            assert [*copy.places] == places
            assert copy.may_end == any(place in ends for place in places)


@pytest.mark.parametrize("text", [
    *TEXTS, "(((", "redd redd blue", "reda reda! ([red])", "a blue, a blue; a blue red",
])  # fmt: skip
def test_forced_is_what_all_places_agree_on_but_for_tokens_that_may_be_longer(text: str) -> None:
    copied = CopyText(text, table())
    data = copied.data
    pieces = [*re.finditer(r"\w+|[^\w\s]", text)]
    ends = {len(json.dumps(text[: piece.end()], ensure_ascii=False)[1:-1].encode())
            for piece in pieces}  # fmt: skip
    starts = [int(place) for place in copied.beginning.places]
    for start in starts:
        copy, size = copied.beginning, 0
        while start + size <= len(data):
            places = [first + size for first in starts
                      if data.startswith(data[start : start + size], first)]  # fmt: skip
            assert [*copy.places] == [place for place in places if place <= len(data)]
            assert copy.forced() == forced_by(data, ends, places, size), data[start:][:size]
            if start + size == len(data):
                break
            following = copy.behind(data[start + size : start + size + 1])
            assert following is not None
            copy, size = following, size + 1


def forced_by(data: bytes, ends: set[int], places: list[int], size: int) -> list[int]:
    """Byte by byte, and token by token."""
    agreed = b""
    while not (size + len(agreed) and any(place + len(agreed) in ends for place in places)):
        following = {data[place + len(agreed) :][:1] for place in places}
        if len(following) > 1:
            break
        agreed += following.pop()
    try:
        tokens = encode(data[places[0] - size :].decode())
    except UnicodeDecodeError:
        return []
    starts = [sum(len(TOKENS[i]) for i in tokens[:n]) for n in range(len(tokens) + 1)]
    if size in starts:
        tokens = tokens[starts.index(size) :]
    else:
        try:
            tokens = encode(data[places[0] :].decode())
        except UnicodeDecodeError:
            return []
    found: list[int] = []
    rest = agreed
    for token_id in tokens:
        at = [place + len(agreed) - len(rest) for place in places]
        may_be_longer = any(
            len(token) > len(rest) and i != END_ID
            and (token.startswith(rest + b'"')
                 or (token.startswith(rest) and any(data.startswith(token, a) for a in at)))
            for i, token in enumerate(TOKENS)
        )  # fmt: skip
        if not rest or may_be_longer:
            break
        found.append(token_id)
        rest = rest[len(TOKENS[token_id]) :]
    return found
