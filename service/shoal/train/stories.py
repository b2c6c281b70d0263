"""Story corpora to documents: plain, and as the answer to "Tell me a story about ...".

What a story is asked for by is found in it (`requests.py`). Some of the answers have their hero
renamed, so that the name must be read from the request.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from shoal.train.config import Source
from shoal.train.pieces import Variant, plain, request_and_answer
from shoal.train.requests import (
    Features,
    find_features,
    framed,
    name_kind,
    names_by_kind,
    rarity,
    request_for,
    subject_of,
)

_PLAIN, _ASKED, _RENAMED = 5, 5, 2  # readings of a story in each form
_HEADING = re.compile(r"^#+\s*(.+)$", re.MULTILINE)


def read_stories(records: Iterable[dict[str, Any]], source: Source) -> Iterator[list[Variant]]:
    """Records with a `text`. Variants: plain, and as the answer to requests made from it."""
    texts = [record["text"] for record in records]
    rare = rarity(texts)
    found = [find_features(text, rare) for text in texts]
    names = names_by_kind(found)
    for text, features in zip(texts, found, strict=True):
        chance = random.Random(text)
        asked = [(request_for(features, chance), text) for _ in range(_ASKED)]
        if features.hero and features.name:
            asked += [_renamed(text, features, names, chance) for _ in range(_RENAMED)]
        asked_for = [request_and_answer(request, answer) for request, answer in asked]
        yield [plain(text)] * _PLAIN + asked_for


def read_lowercase_stories(
    records: Iterable[dict[str, Any]], source: Source
) -> Iterator[list[Variant]]:
    """Stories in lower case, with capitals put back: sentence starts, `i`, and the names listed
    in the option `names`."""
    names = {name.lower(): name for name in source.options.get("names", [])}
    restored = [{"text": restore_capitals(record["text"], names)} for record in records]
    yield from read_stories(restored, source)


def read_titled_stories(
    records: Iterable[dict[str, Any]], source: Source
) -> Iterator[list[Variant]]:
    """Records with `title` and `text`, one line a page."""
    for record in records:
        text = record["text"].strip()
        request = f"Tell me a story called {record['title'].strip()}."
        yield [plain(text), request_and_answer(request, text)]


def read_books(records: Iterable[dict[str, Any]], source: Source) -> Iterator[list[Variant]]:
    """Whole books, cut at their headings; lines of a paragraph are joined."""
    for record in records:
        for part in _HEADING.split(record["text"])[::2]:
            paragraphs = [" ".join(piece.split()) for piece in part.split("\n\n")]
            text = "\n".join(piece for piece in paragraphs if piece)
            if len(text) >= 200:
                yield [plain(text)]


def read_encyclopaedia(
    records: Iterable[dict[str, Any]], source: Source
) -> Iterator[list[Variant]]:
    """The first sentences of articles: whole ones, at most 600 characters of the introduction."""
    for record in records:
        lead = " ".join(record["text"][: record["lead_chars"]].split())
        if whole := re.match(r".{80,600}[.](?= |$)", lead):
            yield [plain(whole[0])]


def restore_capitals(text: str, names: dict[str, str]) -> str:
    """Capitals at sentence starts, for `i`, and for the given names (lower case -> cased)."""
    text = re.sub(r"\bi\b", "I", text)
    text = re.sub(r"[a-z]+", lambda word: names.get(word[0], word[0]), text)
    starts = r"(^|\n|[.!?]\"?\s+|(?:^|[\s,])\"(?=[a-z]))(\"?)([a-z])"
    return re.sub(starts, lambda found: found[1] + found[2] + found[3].upper(), text)


def _renamed(
    text: str, found: Features, names: dict[str, list[str]], chance: random.Random
) -> tuple[str, str]:
    """A request with another name for the hero, and the story with that name."""
    name = chance.choice(names[name_kind(found)])
    if re.search(rf"\b{name}\b", text):
        name = found.name
    features = replace(found, name=name, pair=None)
    subject = subject_of(features, chance)
    if name not in subject:
        subject = f"{found.hero} named {name}"
    return framed(subject, chance), re.sub(rf"\b{found.name}\b", name, text)
