"""A user's data: one file, or a folder of them, as rows to learn from.

One bad row refuses all: each is named with its file and line. What is understood in a way that
one may not expect (columns not used, rows twice) is told in the notes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shoal.train.config import RecipeError
from shoal.train.finetune.messages import RowProblem
from shoal.train.finetune.rows import Row
from shoal.train.finetune.shapes import KNOWN_SHAPES, Kind, row_of
from shoal.train.records import ENDINGS, RecordFile, named_format, open_records

PIECE_CHARS = 8000
"""A plain text is cut into rows of at most so many characters."""
_ROWS_TOLD = 1000
_SHOWN_PROBLEMS = 5
_SHOWN_KEYS = 10
_MAX_PROBLEM_CHARS = 600
_NOT_DATA = re.compile(
    "(readme|license|licence|changelog|notice|test|valid|validation|val|dev|eval)(?![a-z])",
    re.IGNORECASE,
)
"""Names of files in a folder that are about the data, or held out by who made it."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """The rows of a file or folder, in order."""

    path: Path
    rows: list[Row]
    kind: Kind
    notes: tuple[str, ...]
    """How the data was read, a sentence each, for the user."""
    fingerprint: str
    """SHA-256 of the bytes, in hexadecimal; of a folder also of the files' names."""


def read_rows(path: Path, on_rows: Callable[[int], None] = lambda done: None) -> RowFile:
    """Reads a file in a format of `records.py`, or a folder of such files in order of their names.
    `on_rows`: told now and then how many rows are read.

    Files of a folder that are about the data or held out by their name ("test.jsonl") are not read.
    Raises RecipeError that names up to five bad rows by file and line, for rows of mixed kinds, and
    for files without rows, in another encoding or of another format.
    """
    reading = _Reading(on_rows)
    files = [path]
    if path.is_dir():
        files, left_out = _files_of(path)
        if left_out:
            reading.notes.append(f"not read: {_listed(left_out)}")
    for file in files:
        num_before = len(reading.rows)
        reading.read(file)
        if path.is_dir():
            reading.notes.append(f"{file.name}: {_rows(len(reading.rows) - num_before)}")
    reading.check(path)
    fingerprint = _fingerprint(path, files)
    assert reading.kind is not None, "a file without rows was refused"
    return RowFile(path, reading.rows, reading.kind, tuple(reading.all_notes()), fingerprint)


@dataclass(slots=True)
class _Reading:
    """What was found so far."""

    on_rows: Callable[[int], None]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Where, and what."""
    num_problems: int = 0
    kinds: dict[Kind, str] = field(default_factory=dict)
    """Kind -> where it was first seen."""
    used: Counter[tuple[str, ...]] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)

    @property
    def kind(self) -> Kind | None:
        return next(iter(self.kinds), None)

    def read(self, path: Path) -> None:
        records = open_records(path)
        if not records.is_as_named:
            self.notes.append(f"{path.name} is read as {records.format}, by what it holds")
        if records.format == "text":
            self._read_text(records)
            return
        num_before = len(self.rows) + self.num_problems
        for found in records:
            where = f"{path.name}, {found.place}"
            if found.problem:
                self._add_problem(where, found.problem)
                continue
            try:
                shaped = row_of(found.record, where)
            except RowProblem as problem:
                self._add_problem(where, str(problem))
                continue
            self.kinds.setdefault(shaped.kind, where)
            self.rows.append(shaped.row)
            if len(self.rows) % _ROWS_TOLD == 0:
                self.on_rows(len(self.rows))
            self.used[shaped.used] += 1
            self.unused.update(shaped.unused)
        if len(self.rows) + self.num_problems == num_before:
            raise RecipeError(f"{path} holds no rows: {_how_empty(path)}")

    def _read_text(self, records: RecordFile) -> None:
        path = records.path
        text = "".join(found.record["text"] for found in records)
        if not text.strip():
            raise RecipeError(f"{path} holds no text: {_how_empty(path)}")
        pieces = list(_pieces(text))
        self.kinds.setdefault("text", f"{path.name}, line 1")
        line = 1
        for number, piece in enumerate(pieces, start=1):
            row = Row(f"{path.name}, line {line}", text=piece, is_end=number == len(pieces))
            self.rows.append(row)
            line += piece.count("\n")
        how = f" in {len(pieces):,} pieces" if len(pieces) > 1 else ""
        self.notes.append(f"{path.name} is read as one plain text{how}")

    def _add_problem(self, where: str, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < _SHOWN_PROBLEMS:
            self.problems.append((where, problem[:_MAX_PROBLEM_CHARS]))

    def check(self, path: Path) -> None:
        """Raises RecipeError for bad rows and for mixed kinds."""
        if self.num_problems:
            more = self.num_problems - len(self.problems)
            before, lines = "", ""
            for where, problem in self.problems:
                lines += f"\n  {where}: {'the same' if problem == before else problem}"
                before = problem
            rest = f"\n  and {more:,} more" if more else ""
            rows = "row" if self.num_problems == 1 else "rows"
            raise RecipeError(
                f"{self.num_problems:,} {rows} of {path} cannot be learned, so nothing is:"
                f"{lines}{rest}"
            )
        if len(self.kinds) > 1:
            seen = ", ".join(f"{kind} ({where})" for kind, where in self.kinds.items())
            raise RecipeError(f"{path} mixes kinds of rows: {seen}. Train each kind alone")

    def all_notes(self) -> Iterator[str]:
        yield from self.notes
        for keys, count in self.used.most_common():
            if self.kind == "pairs" and keys != ("prompt", "completion"):
                *prompt, answer = (f"`{key}`" for key in keys)
                yield f"{_rows(count)} read as prompt {' + '.join(prompt)}, answer {answer}"
        if self.unused:
            counts = sorted(self.unused.items(), key=lambda each: (-each[1], each[0]))
            names = [f"`{name}`" for name, _ in counts]
            yield f"not used: {_listed(names)}"
        if len(self.rows) == 1:
            yield "there is one row only: none can be held out to measure on"
        twice = len(self.rows) - len({row.digest() for row in self.rows})
        if twice:
            yield f"{_rows(twice)} of {len(self.rows):,} repeat an earlier one"


def _files_of(folder: Path) -> tuple[list[Path], list[str]]:
    """(data files in order of their names, what else is there)."""
    files: list[Path] = []
    left_out: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and named_format(path.name) and not _NOT_DATA.match(path.name):
            files.append(path)
        else:
            left_out.append(path.name)
    if not files:
        raise RecipeError(
            f"{folder} holds no data files: their names end in {', '.join(sorted(ENDINGS))}, "
            "and .xz or .gz behind it"
        )
    return files, left_out


def _how_empty(path: Path) -> str:
    return "it is empty" if path.stat().st_size == 0 else f"expected {KNOWN_SHAPES}"


def _pieces(text: str) -> Iterator[str]:
    """Cut behind an empty line where there is one in the last half of a piece, else behind a line,
    a sentence or a word."""
    at = 0
    while len(text) - at > PIECE_CHARS:
        half, end = at + PIECE_CHARS // 2, at + PIECE_CHARS
        ends = (text.rfind(mark, half, end) + len(mark) for mark in ("\n\n", "\n", ". ", " "))
        cut = next((found for found in ends if found > half), end)
        yield text[at:cut]
        at = cut
    yield text[at:]


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_KEYS
    return ", ".join(names[:_SHOWN_KEYS]) + (f" and {more:,} more" if more > 0 else "")


def _fingerprint(path: Path, files: list[Path]) -> str:
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    if files == [path]:
        return digests[0]
    lines = (f"{file.name}\0{digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
