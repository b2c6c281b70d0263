"""Corpus files to documents: one reader per format, checksums, held-out splits.

A document is a list of variants (a story plain, or as the answer to a request); each epoch reads
one of them. A variant is a list of pieces, each written by the user (`prompt`) or to be learned.
Formats of the command model are in `commands.py`, story requests in `stories.py`.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from shoal.train import commands, stories
from shoal.train.config import Recipe, RecipeError, Source
from shoal.train.pieces import Variant, chat, plain, read_twice
from shoal.train.values import common_words, titles_by_slot

Record = dict[str, Any]
Reader = Callable[[Iterable[Record], Source], Iterator[list[Variant]]]


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its variants and how many times an epoch reads it."""

    variants: list[Variant]
    repeat: float


class Corpus(NamedTuple):
    """Training documents, and held-out ones by source file."""

    train: list[Document]
    held_out: dict[str, list[Document]]
    background: list[Document]  # never trained on: tokenizer and warm start of the embedding


def read_corpus(
    recipe: Recipe, data_dir: Path, held_out: bool = True, base: Path | None = None
) -> Corpus:
    """Read every source of `recipe` below `data_dir`. `base`: the folder that is trained further.

    Raises `RecipeError` that lists each missing or altered file with its origin and licence.
    """
    _check_files(recipe.sources, data_dir)
    corpus = Corpus([], {}, [])
    for source in recipe.sources:
        reader = _reader(source, recipe.read_twice)
        source = _with_titles(source, recipe, data_dir)
        if base is not None and source.options.get("base_judges"):
            source = replace(source, options={**source.options, "base": base})
        learn, keep_back = _split(read_records(data_dir / source.file), source)
        target = corpus.background if source.format == "background" else corpus.train
        target.extend(Document(found, source.repeat) for found in reader(learn, source))
        if held_out and keep_back:
            source = replace(source, options={**source.options, "made_up": 0})
            back = [Document(found, 1.0) for found in reader(keep_back, source)]
            corpus.held_out.setdefault(_held_out_name(source), []).extend(back)
    if not corpus.train:
        raise RecipeError("the sources hold no document to train on")
    return corpus


def _reader(source: Source, twice: bool) -> Reader:
    if source.format not in READERS:
        raise RecipeError(
            f"sources.format = {source.format!r} is not known; known are {sorted(READERS)}"
        )
    reader = READERS[source.format]
    if not twice:
        return reader
    return lambda records, source: (
        [read_twice(variant) for variant in variants] for variants in reader(records, source)
    )


def _with_titles(source: Source, recipe: Recipe, data_dir: Path) -> Source:
    """Option `titles` (slot -> nouns) becomes slot -> titles in the source named `titles_from`, and
    `words` the words of its texts."""
    if "titles_from" not in source.options:
        return source
    file = source.options["titles_from"]
    if all(other.file != file for other in recipe.sources):
        raise RecipeError(f"titles_from = {file!r} is not the file of a source of this recipe")
    articles = list(read_records(data_dir / file))
    titles = titles_by_slot(articles, source.options["titles"])
    words = common_words(articles)
    return replace(source, options={**source.options, "titles": titles, "words": words})


def read_records(path: Path) -> Iterator[Record]:
    """Records of a `.jsonl` or `.jsonl.xz` file; any other file is one record with a `text`."""
    with _open_text(path) as lines:
        if ".jsonl" not in path.name:
            yield {"text": lines.read()}
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise RecipeError(f"{path}, line {number}: not a JSON object") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _check_files(sources: Iterable[Source], data_dir: Path) -> None:
    problems = []
    for source in sources:
        path = data_dir / source.file
        named = f"{source.file}: {source.title or source.format}"
        if not path.is_file():
            problems.append(
                f"  missing  {named}\n"
                f"           from {source.origin or 'your own files'}, "
                f"licence {source.licence or 'not stated'}"
            )
        elif source.sha256 and _sha256(path) != source.sha256:
            problems.append(f"  altered  {named}\n           its SHA-256 is not {source.sha256}")
    if problems:
        raise RecipeError(
            f"{len(problems)} of the recipe's files cannot be used from {data_dir}:\n"
            + "\n".join(problems)
        )


def _held_out_name(source: Source) -> str:
    name = str(source.options.get("task") or source.file.split(".")[0])
    return " ".join([name, *source.options.get("part", "").split()])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(records: Iterable[Record], source: Source) -> tuple[list[Record], list[Record]]:
    learn: list[Record] = []
    back: list[Record] = []
    for record in records:
        if any(record.get(key) not in allowed for key, allowed in source.keep.items()):
            continue
        (back if is_held_out(record, source) else learn).append(record)
    return learn, back


def is_held_out(record: Record, source: Source) -> bool:
    """True when the record is never trained on: named by a field, or in the fixed share by hash."""
    if any(record.get(key) in values for key, values in source.hold_out.items()):
        return True
    digest = hashlib.sha256(str(record.get("text", "")).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < source.hold_out_share


def read_own(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """A user's own JSONL: `text`, or `prompt` and `completion`, or `messages`."""
    for number, record in enumerate(records, start=1):
        if "messages" in record:
            yield [chat(record["messages"])]
        elif "prompt" in record and "completion" in record:
            turns = [("user", record["prompt"]), ("assistant", record["completion"])]
            yield [chat([{"role": role, "content": content} for role, content in turns])]
        elif isinstance(record.get("text"), str):
            yield [plain(record["text"])]
        else:
            raise RecipeError(
                f"{source.file}, record {number}: expected a `text`, a `prompt` and `completion`, "
                f"or `messages`; found {', '.join(sorted(record)) or 'nothing'}"
            )


READERS: dict[str, Reader] = {
    "text": read_own,
    "stories": stories.read_stories,
    "lowercase-stories": stories.read_lowercase_stories,
    "titled-stories": stories.read_titled_stories,
    "books": stories.read_books,
    "encyclopaedia": stories.read_encyclopaedia,
    "snips": commands.read_snips,
    "intents": commands.read_intents,
    "dialogue-state": commands.read_dialogue_state,
    "outside": commands.read_outside,
    "background": commands.read_background,
}
