"""Story corpora to documents: plain, and as the answer to "Tell me a story about ...".

The subject of a request is taken from the story itself by a simple rule: someone who is named in
it, and a thing that is said often in it and seldom elsewhere.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from shoal.train.config import Source
from shoal.train.pieces import Variant, plain, request_and_answer

_NAMED = re.compile(
    r"\b([Aa]n? (?:[a-z]+ ){0,3}?[a-z]+) (?:named|called|whose name was) ([A-Z][a-z]+)\b"
)
_PAIR = re.compile(r"^([A-Z][a-z]+) and ([A-Z][a-z]+)\b")
_THING = re.compile(
    r"\b[Aa]n? (?:[a-z]+ ){0,2}?([a-z]{3,})"
    r"(?=[.,!?]| (?:in|on|at|and|with|to|that|who|was|is|from)\b)"
)
_REQUESTS = (
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "Please tell me a short story about {}.",
    "Write a story about {}.",
    "Can you tell me a story about {}?",
    "I want to hear a story about {}.",
)
_HEADING = re.compile(r"^#+\s*(.+)$", re.MULTILINE)


def read_stories(records: Iterable[dict[str, Any]], source: Source) -> Iterator[list[Variant]]:
    """Records with a `text`. Variants: plain (twice as often) and requests by subject."""
    texts = [record["text"] for record in records]
    rarity = _rarity(texts)
    for number, text in enumerate(texts):
        yield _variants(text, subjects(text, rarity), number)


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


def subjects(text: str, rarity: dict[str, float]) -> list[str]:
    """At most three subjects of a story, the named one first, e.g. `a little girl named Lily`."""
    found = []
    if named := _NAMED.search(text):
        found.append(f"{_lower_article(named[1])} named {named[2]}")
    elif pair := _PAIR.search(text):
        found.append(f"{pair[1]} and {pair[2]}")
    said = Counter(re.findall(r"[a-z]+", text))
    things = {
        word
        for word in _THING.findall(text)
        if said[word] >= 2 and rarity.get(word, 0.0) >= 1.5  # not `time`, not `day`
    }
    ranked = sorted(things, key=lambda word: (-said[word] * rarity.get(word, 0.0), word))
    for word in ranked[:2]:
        found.append(("an " if word[0] in "aeiou" else "a ") + word)
    return found


def restore_capitals(text: str, names: dict[str, str]) -> str:
    """Capitals at sentence starts, for `i`, and for the given names (lower case -> cased)."""
    text = re.sub(r"\bi\b", "I", text)
    text = re.sub(r"[a-z]+", lambda word: names.get(word[0], word[0]), text)
    starts = r"(^|\n|[.!?]\"?\s+|(?:^|[\s,])\"(?=[a-z]))(\"?)([a-z])"
    return re.sub(starts, lambda found: found[1] + found[2] + found[3].upper(), text)


def _variants(text: str, found: list[str], number: int) -> list[Variant]:
    requests = [
        _REQUESTS[(number + place) % len(_REQUESTS)].format(subject)
        for place, subject in enumerate(found)
    ]
    if number % 8 == 0:
        requests.append("Tell me a story.")
    asked = [request_and_answer(request, text) for request in requests]
    return [plain(text)] * (len(asked) + 1) + asked  # half of the readings are plain


def _rarity(texts: list[str]) -> dict[str, float]:
    seen = Counter(word for text in texts for word in set(re.findall(r"[a-z]+", text)))
    return {word: math.log(len(texts) / count) for word, count in seen.items()}


def _lower_article(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]
