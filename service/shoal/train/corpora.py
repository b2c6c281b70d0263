"""Source files to documents: checksums, held-out splits, the reader of a user's own file.

Other formats come from a recipe's own code (`hooks.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from shoal.train.config import Recipe, RecipeError, Source
from shoal.train.finetune.messages import RowProblem
from shoal.train.finetune.rows import Row
from shoal.train.finetune.shapes import row_of
from shoal.train.pieces import (
    Corpus,
    Document,
    ReadContext,
    Reader,
    Record,
    Variant,
    chat,
    plain,
    read_twice,
    request_and_answer,
)
from shoal.train.records import open_records
from shoal.train.tokenizer import CONTROL_TOKENS

_ROLES = ("system", "user", "assistant")


def read_corpus(
    recipe: Recipe,
    data_dir: Path,
    readers: Mapping[str, Reader] | None = None,
    base: Path | None = None,
) -> Corpus:
    """Read every source of `recipe` below `data_dir`.

    `readers`: formats besides "text". `base`: the model folder that is trained further.
    Raises `RecipeError` that lists each missing or altered file with its origin and licence.
    """
    _check_files(recipe.sources, data_dir)
    corpus = Corpus([], {}, [])
    for source in recipe.sources:
        reader = _reader(source, recipe, readers)
        train, held_out = _split(read_records(data_dir / source.file), source)
        context = ReadContext(data_dir, recipe.sources, base)
        target = corpus.background if source.background else corpus.train
        target.extend(Document(item, source.repeat) for item in reader(train, source, context))
        _add_held_out(corpus.held_out, held_out, source, reader, context)
    if not corpus.train:
        raise RecipeError("the sources hold no document to train on")
    return corpus


def read_held_out(
    recipe: Recipe, data_dir: Path, readers: Mapping[str, Reader] | None = None
) -> dict[str, list[Document]]:
    """The held-out documents alone, by the source's name: `Corpus.held_out` of `read_corpus`."""
    sources = [source for source in recipe.sources if source.hold_out or source.hold_out_share]
    _check_files(sources, data_dir)
    documents: dict[str, list[Document]] = {}
    for source in sources:
        _, held_out = _split(read_records(data_dir / source.file), source)
        reader = _reader(source, recipe, readers)
        context = ReadContext(data_dir, recipe.sources)
        _add_held_out(documents, held_out, source, reader, context)
    return documents


def _add_held_out(
    documents: dict[str, list[Document]],
    records: list[Record],
    source: Source,
    reader: Reader,
    context: ReadContext,
) -> None:
    if records:
        context = ReadContext(context.data_dir, context.sources, context.base, held_out=True)
        name = source.name or source.file.split(".")[0]
        documents.setdefault(name, []).extend(
            Document(variants[:1], 1.0) for variants in reader(records, source, context)
        )


def _reader(source: Source, recipe: Recipe, readers: Mapping[str, Reader] | None) -> Reader:
    known = {"text": read_own, **(readers or {})}
    if source.format not in known:
        raise RecipeError(
            f"sources.format = {source.format!r} is not known; known are {sorted(known)}"
        )
    reader = known[source.format]
    if not recipe.read_twice:
        return reader
    return lambda records, source, context: (
        [read_twice(variant) for variant in variants]
        for variants in reader(records, source, context)
    )


def read_records(path: Path) -> Iterator[Record]:
    """Records of a file in any format of `records.py`; a plain text is one record with a `text`.

    Raises RecipeError at the first line that holds no record."""
    for found in open_records(path):
        if found.problem:
            raise RecipeError(f"{path}, {found.place}: {found.problem}")
        yield found.record


def _check_files(sources: Iterable[Source], data_dir: Path) -> None:
    problems = []
    for source in sources:
        path = data_dir / source.file
        label = f"{source.file}: {source.title or source.format}"
        if not path.is_file():
            problems.append(
                f"  missing  {label}\n"
                f"           from {source.origin or 'your own files'}, "
                f"licence {source.licence or 'not stated'}"
            )
        elif source.sha256 and _sha256(path) != source.sha256:
            problems.append(f"  altered  {label}\n           its SHA-256 is not {source.sha256}")
    if problems:
        raise RecipeError(
            f"{len(problems)} of the recipe's files cannot be used from {data_dir}:\n"
            + "\n".join(problems)
        )


def source_digests(sources: Iterable[Source], data_dir: Path) -> dict[str, str]:
    """SHA-256 of each file that is there, by its name; one that the recipe states was checked."""
    return {source.file: source.sha256 or _sha256(data_dir / source.file) for source in sources}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(records: Iterable[Record], source: Source) -> tuple[list[Record], list[Record]]:
    """(to train on, held out); records that `keep` excludes are in neither."""
    train: list[Record] = []
    held_out: list[Record] = []
    for record in records:
        if any(record.get(key) not in allowed for key, allowed in source.keep.items()):
            continue
        (held_out if is_held_out(record, source) else train).append(record)
    return train, held_out


def is_held_out(record: Record, source: Source) -> bool:
    """Is the record never trained on: named by a field, or in the fixed share by hash?"""
    if any(record.get(key) in values for key, values in source.hold_out.items()):
        return True
    digest = hashlib.sha256(str(record.get("text", "")).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < source.hold_out_share


def read_own(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """A user's own file, format "text": texts, pairs or chats, in the shapes of `shapes.py`."""
    for number, record in enumerate(records, start=1):
        where = f"{source.file}, record {number}"
        try:
            yield [_variant(row_of(record, where).row)]
        except RowProblem as problem:
            raise RecipeError(f"{where}: {problem}") from problem


def _variant(row: Row) -> Variant:
    """The row under the chat template that recipes' models have. Raises RowProblem."""
    if row.text is not None:
        return plain(row.text)
    if row.prompt is not None and row.completion is not None:
        return request_and_answer(row.prompt, row.completion)
    for index, message in enumerate(row.messages):
        if message["role"] not in _ROLES or "tool_calls" in message:
            raise RowProblem(f"messages[{index}]: a model from a recipe knows no tools")
    if row.tools or row.context_only or row.variables:
        raise RowProblem("tools, weights and template variables are not for recipes")
    return chat([{"role": m["role"], "content": m["content"]} for m in row.messages])


def tokenizer_texts(corpus: Corpus) -> Iterator[str]:
    """Texts to train the tokenizer on.

    With background text, training documents count ten times. Without, of documents that an epoch
    reads less than once only that share is taken.
    """
    if corpus.background:
        for _ in range(10):
            yield from document_texts(corpus.train)
        yield from document_texts(corpus.background)
        return
    yield from document_texts(
        document
        for index, document in enumerate(corpus.train)
        if index * document.repeat % 1 < document.repeat
    )


def document_texts(documents: Iterable[Document]) -> Iterator[str]:
    """The segments of every seventh variant, without control tokens."""
    for document in documents:
        for variant in {id(variant): variant for variant in document.variants[::7]}.values():
            yield from (without_control_tokens(segment.text) for segment in variant)


def without_control_tokens(text: str) -> str:
    """The text as a user would see it."""
    for token in CONTROL_TOKENS:
        text = text.replace(token, "")
    return text
