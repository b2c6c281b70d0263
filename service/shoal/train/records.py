"""Files of records: JSON lines, a JSON array, CSV, TSV, Parquet, or one plain text.

The name's ending says the format, where it is known; what a file holds is looked at too, so that
JSON lines under another name are read as the rows they are and never as one plain text.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shoal.train.config import RecipeError
from shoal.train.text_file import open_plain, text_lines

Format = Literal["JSON lines", "JSON", "CSV", "TSV", "Parquet", "text"]
ENDINGS: dict[str, Format] = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
    ".txt": "text",
    ".md": "text",
}
COMPRESSED = (".xz", ".gz")
_DELIMITERS = ",;\t"
_OBJECT = re.compile(r'\{\s*("|$)')
"""How an object over several lines begins."""
_BATCH_ROWS = 1024


class Found(NamedTuple):
    """A record, or what is wrong where one should be."""

    place: str
    """"line 7"; in a Parquet file "row 7"."""
    record: dict[str, Any]
    problem: str = ""
    """Why there is no record; empty where there is one."""


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file and how it is read."""

    path: Path
    format: Format
    is_as_named: bool
    """Does the name say so? Else what it holds does."""

    def __iter__(self) -> Iterator[Found]:
        """Records in order. Raises RecipeError for a file that cannot be read at all."""
        match self.format:
            case "JSON lines":
                return _json_lines(self.path)
            case "JSON":
                return _json_array(self.path)
            case "CSV" | "TSV":
                return _table(self.path, is_tsv=self.format == "TSV")
            case "Parquet":
                return _parquet(self.path)
            case "text":
                return iter([Found("line 1", {"text": _plain_text(self.path)})])


def _plain_text(path: Path) -> str:
    """With "\\n" alone at the ends of lines."""
    return "".join(text_lines(path)).replace("\r\n", "\n").replace("\r", "\n")


def open_records(path: Path) -> RecordFile:
    """Finds out the format. Raises RecipeError for what cannot be opened or is no text."""
    with open_plain(path) as file:
        if file.read(4) == b"PAR1":
            return RecordFile(path, "Parquet", named_format(path.name) == "Parquet")
    named = named_format(path.name)
    if named in ("CSV", "TSV"):
        return RecordFile(path, named, True)
    if named == "Parquet":
        raise RecipeError(f"{path} is not a Parquet file")
    found = _json_format(path, named)
    if found is None and named in (None, "text"):
        return RecordFile(path, "text", named == "text")
    return RecordFile(path, found or named or "text", found == named or not found)


def named_format(name: str) -> Format | None:
    """What a file's name says; None: nothing."""
    path = Path(name.lower())
    ending = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return ENDINGS.get(ending)


def _json_format(path: Path, named: Format | None) -> Literal["JSON lines", "JSON"] | None:
    """By how the first lines begin."""
    lines = (line.strip() for line in text_lines(path) if line.strip())
    first, second = next(lines, ""), next(lines, "")
    value = _parsed(first)
    if first.startswith("["):
        if isinstance(value, list):
            return "JSON" if not value or isinstance(value[0], dict) else None
        return "JSON" if (first + second)[1:].lstrip().startswith("{") else None
    if isinstance(value, dict) or (first.startswith("{") and isinstance(_parsed(second), dict)):
        return "JSON lines"
    is_object = named != "JSON lines" and _OBJECT.match(first) is not None
    return "JSON" if is_object else None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _json_lines(path: Path) -> Iterator[Found]:
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield _found(f"line {number}", line)


def _found(place: str, text: str) -> Found:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Found(place, {}, f"not JSON: {error.msg}, at character {error.pos + 1}")
    except (ValueError, RecursionError):
        return Found(place, {}, "not JSON that can be read")
    if not isinstance(value, dict):
        return Found(place, {}, f"not a JSON object but {_kind(value)}")
    return Found(place, value)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


def _json_array(path: Path) -> Iterator[Found]:
    """One list of objects, or one object over several lines. Each record has the line it begins
    in."""
    text = "".join(text_lines(path))
    at = _skip_space(text, 0)
    if not text.startswith("[", at):
        yield _found(f"line {text.count(chr(10), 0, at) + 1}", text)
        return
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    at = _skip_space(text, at + 1)
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise RecipeError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{path}, line {line}: not JSON that can be read") from error
        is_object = isinstance(value, dict)
        problem = "" if is_object else f"not a JSON object but {_kind(value)}"
        yield Found(f"line {line}", value if is_object else {}, problem)
        at = _skip_space(text, at)
        if text.startswith(",", at):
            at = _skip_space(text, at + 1)
        elif not text.startswith("]", at):
            line += text.count("\n", counted, at)
            raise RecipeError(f"{path}, line {line}: the list does not go on or end here")
    if text[at + 1 :].strip():
        raise RecipeError(f"{path} goes on behind the end of its list: one list of rows is read")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _table(path: Path, *, is_tsv: bool) -> Iterator[Found]:
    lines = text_lines(path)
    first = next(lines, "")
    delimiter = "\t" if is_tsv else max(_DELIMITERS, key=first.count)
    with _any_field_size():
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        try:
            names = _column_names(path, next(reader, []))
            begins = reader.line_num + 1
            for cells in reader:
                place, begins = f"line {begins}", reader.line_num + 1
                if not cells:
                    continue
                if len(cells) == len(names):
                    yield Found(place, dict(zip(names, cells, strict=True)))
                else:
                    problem = f"{len(cells)} cells, but the first line names {len(names)} columns"
                    yield Found(place, {}, problem)
        except csv.Error as error:
            name = "TSV" if is_tsv else "CSV"
            raise RecipeError(f"{path}, line {reader.line_num}: not {name}: {error}") from error


def _column_names(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip().lower() or f"column {i}" for i, cell in enumerate(cells, start=1)]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{path}, line 1: two columns are named {name}")
    return names


@contextmanager
def _any_field_size() -> Iterator[None]:
    """Cells of more than 128 KiB, the limit of the csv module."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[Found]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise RecipeError(f"{path}: Parquet files need pyarrow: pip install pyarrow") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield Found(f"row {number}", record)
    except (ArrowException, OSError, ValueError) as error:
        raise RecipeError(f"{path} is not a Parquet file that can be read: {error}") from error
