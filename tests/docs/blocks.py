"""Blocks of code of a Markdown page, and the comments that say what the tests do with them.

<!-- not run: REASON -->   before a block: it is shown only; the tests list it with its reason
<!-- output -->            before a block: what the block above prints; "..." stands for anything
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {"sh", "bash"}
RUN = SHELLS | {"python"}
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<note>[^\n]*) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.M | re.S,
)
# A server that goes on while the next blocks run: the last line of its block.
_SERVER = re.compile(
    r"^(?:(?:\w+=\S+ +)*shoal serve|make serve)\b(?!.*--help)[^\n]*(?:(?<=\\)\n[^\n]*)*\Z", re.M
)

_HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """One block of code that could be run."""

    page: str
    line: int
    """Of its first line of code, from 1."""
    language: str
    code: str
    not_run: str = ""
    """Why it is shown only."""
    output: str | None = None
    """What it must print; None = anything."""
    section: str = ""
    """The heading above it."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def starts_server(self) -> bool:
        """Does it end with a server that the blocks below talk to?"""
        return self.language in SHELLS and bool(_SERVER.search(self.code.rstrip()))


class BadNote(ValueError):
    """A comment before a block that says nothing the tests know."""


def blocks_of(page: str, text: str) -> list[Block]:
    """The blocks of a page in order. Raises BadNote."""
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        note, language = match["note"] or "", match["language"]
        line = text.count("\n", 0, match.start("code")) + 1
        indent = len(match["indent"])
        code = "".join(part[indent:] for part in match["code"].splitlines(keepends=True))
        if note.strip() == "output":
            if not found:
                raise BadNote(f"{page}:{line}: no block before this output")
            found[-1] = Block(**{**vars(found[-1]), "output": code})
        elif language in RUN:
            heads = _HEADING.findall(_BLOCK.sub("", text[: match.start()]))
            reason = _reason(note, f"{page}:{line}")
            found.append(Block(page, line, language, code, reason, section="".join(heads[-1:])))
    return found


def _reason(note: str, place: str) -> str:
    if not note or note.startswith("Generated"):
        return ""
    kind, _, reason = note.partition(":")
    if kind != "not run" or len(reason.strip()) < 4:
        raise BadNote(f"{place}: <!-- {note} --> is neither `output` nor `not run: REASON`")
    return reason.strip()


def pages() -> Iterator[str]:
    """Pages whose blocks are run, the README first: all but references written from code."""
    yield from ("README.md", "CONTRIBUTING.md", "deploy/README.md", "docs/models/smollm2.md")
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name != "sdk.md":
            yield path.relative_to(ROOT).as_posix()


def read(page: str) -> list[Block]:
    return blocks_of(page, (ROOT / page).read_text(encoding="utf-8"))


def matches(expected: str, printed: str) -> bool:
    """Does a page show what was printed? Blanks at the ends of lines do not count."""
    parts = [re.escape(part) for part in _plain(expected).split("...")]
    return re.fullmatch(".*?".join(parts), _plain(printed), re.S) is not None


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
