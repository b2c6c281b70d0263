"""Formats of minnow's sources: stories, on their own and as answers to "Tell me a story about ...".

What a story can be asked for by is extracted from it (`story_requests.py`). In some of the answers
the hero is renamed, so that the name must be read from the request.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from shoal.train.config import Source
from shoal.train.pieces import (
    ReadContext,
    Reader,
    Record,
    Variant,
    plain,
    request_and_answer,
)

from .story_requests import (
    Features,
    extract_features,
    name_kind,
    names_by_kind,
    request_about,
    request_for,
    subject_of,
    word_rarity,
)

# Variants of a story in each form.
_PLAIN, _ASKED, _RENAMED = 5, 5, 2
_HEADING = re.compile(r"^#+\s*(.+)$", re.MULTILINE)


def read_stories(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Records with a `text`. Variants: plain, and as the answer to requests made from it."""
    texts = [record["text"] for record in records]
    rarity = word_rarity(texts)
    features_of = [extract_features(text, rarity) for text in texts]
    names = names_by_kind(features_of)
    for text, features in zip(texts, features_of, strict=True):
        rng = random.Random(text)
        asked = [(request_for(features, rng), text) for _ in range(_ASKED)]
        if features.hero and features.name:
            asked += [_renamed(text, features, names, rng) for _ in range(_RENAMED)]
        answers = [request_and_answer(request, answer) for request, answer in asked]
        yield [plain(text)] * _PLAIN + answers


def read_lowercase_stories(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Stories in lower case, whose capitals are restored: at sentence starts, in `I`, and in the
    names that the option `names` lists."""
    names = {name.lower(): name for name in source.options.get("names", [])}
    restored = [{"text": restore_capitals(record["text"], names)} for record in records]
    yield from read_stories(restored, source, context)


def read_titled_stories(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Records with `title` and `text`, one line per page."""
    for record in records:
        text = record["text"].strip()
        request = f"Tell me a story called {record['title'].strip()}."
        yield [plain(text), request_and_answer(request, text)]


def read_books(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Whole books, cut at their headings; the lines of a paragraph are joined."""
    for record in records:
        for chapter in _HEADING.split(record["text"])[::2]:
            paragraphs = [" ".join(paragraph.split()) for paragraph in chapter.split("\n\n")]
            text = "\n".join(paragraph for paragraph in paragraphs if paragraph)
            if len(text) >= 200:
                yield [plain(text)]


def read_encyclopaedia(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """The first sentences of articles: whole ones, at most 600 characters of the introduction."""
    for record in records:
        introduction = " ".join(record["text"][: record["lead_chars"]].split())
        if sentences := re.match(r".{80,600}[.](?= |$)", introduction):
            yield [plain(sentences[0])]


def restore_capitals(text: str, names: Mapping[str, str]) -> str:
    """Capitals at sentence starts, in `I`, and in names (lower case -> as written)."""
    text = re.sub(r"\bi\b", "I", text)
    text = re.sub(r"[a-z]+", lambda word: names.get(word[0], word[0]), text)
    starts = r"(^|\n|[.!?]\"?\s+|(?:^|[\s,])\"(?=[a-z]))(\"?)([a-z])"
    return re.sub(starts, lambda match: match[1] + match[2] + match[3].upper(), text)


def _renamed(
    text: str, features: Features, names: dict[str, list[str]], rng: random.Random
) -> tuple[str, str]:
    """A request with another name for the hero, and the story with that name."""
    name = rng.choice(names[name_kind(features)])
    if re.search(rf"\b{name}\b", text):
        name = features.name
    renamed = replace(features, name=name, pair=None)
    subject = subject_of(renamed, rng)
    if name not in subject:
        subject = f"{features.hero} named {name}"
    return request_about(subject, rng), re.sub(rf"\b{features.name}\b", name, text)


READERS: dict[str, Reader] = {
    "stories": read_stories,
    "lowercase-stories": read_lowercase_stories,
    "titled-stories": read_titled_stories,
    "books": read_books,
    "encyclopaedia": read_encyclopaedia,
}
