"""Writes Markdown to a terminal while it arrives.

Only ever appends: the cursor never moves back, so nothing flickers, and what has scrolled away or
was cut by a resize stays right. A word is written when it is whole, a marked span when its closing
mark is there, a table when its last row is. What is written does not depend on how the text was cut
into pieces. Lines are kept as the model broke them; long ones are wrapped between words.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, RenderableType

from shoal.commands.markdown_spans import read_spans, without_marks
from shoal.commands.terminal import visible

MAX_WIDTH = 100
MIN_WIDTH = 10
RESET = "\x1b[0m"
CODE_INDENT = "  "

_CODES = {
    "strong": "1", "emphasis": "3", "strike": "9", "link": "4", "dim": "2", "heading": "1",
    "code": "36",
}  # fmt: skip
_CODES_WITHOUT_COLOR = {**_CODES, "code": "1"}

_UNDECIDED = re.compile(r"\s*(#{1,6}|[-*_+ ]+|\d{1,9}[.)]?|[`~]{1,2}|>*)\s?")
_HEADING = re.compile(r" {0,3}(?P<marks>#{1,6})[ \t]+")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}")
_ITEM = re.compile(r"(?P<indent>[ \t]*)(?P<mark>[-*+]|\d{1,9}[.)])[ \t]+(?=\S)")
_QUOTE = re.compile(r" {0,3}>[ \t]?")
_FENCE = re.compile(r" {0,3}(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^`]*")
_TABLE_RULE = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_WIDE = re.compile("([\u2e80-\ufaff\uff00-\uffef\U00020000-\U0003ffff])")
_PIECE = re.compile(r"[ \t]+|[^ \t]+")


class MarkdownWriter:
    """Takes pieces of one Markdown text; `finish` at its end, or where it was stopped."""

    def __init__(
        self, write: Callable[[str], None], width: Callable[[], int], *, color: bool = True
    ) -> None:
        """`width`: columns of the terminal, asked again for every line. Without `color` there is
        only bold, italic, underlined, dim and struck out."""
        self._write = write
        self._width_of_terminal = width
        self._color = color
        self._codes = _CODES if color else _CODES_WITHOUT_COLOR
        self._text = ""  # not written yet
        self._return = ""
        self._fence: str | None = None
        self._highlight: Callable[[str], RenderableType] | None = None
        self._table: list[str] = []
        self._in_line = False
        self._before = ""  # the character in front of `_text` in its line
        self._styles: frozenset[str] = frozenset()  # of the line
        self._hanging = ""  # begins the lines that a long one is continued on
        self._word: list[tuple[str, frozenset[str]]] = []
        self._column = 0
        self._space = ""  # between what is written and the word
        self._shown: frozenset[str] = frozenset()  # that the terminal is set to

    def feed(self, text: str) -> None:
        """Writes what has become certain."""
        text = self._return + text
        self._return = "\r" if text.endswith("\r") else ""  # a line break may follow it
        self._text += visible(text.removesuffix("\r") if self._return else text)
        self._advance(is_end=False)

    def finish(self) -> None:
        """Writes the rest, and ends the last line."""
        self._text += visible(self._return)
        self._return = ""
        self._advance(is_end=True)
        if self._table:
            self._end_table()
        self._end_word()
        self._show(frozenset())
        if self._column:
            self._write("\n")
            self._column = 0

    # --- lines ------------------------------------------------------------------------------------

    def _advance(self, *, is_end: bool) -> None:
        while self._text:
            line, newline, rest = self._text.partition("\n")
            is_whole = bool(newline) or is_end
            if not self._in_line and not self._begin(line, is_whole):
                return
            if self._in_line:
                line = self._text.partition("\n")[0]
                used = read_spans(line, self._before, is_whole, self._take, self._styles)
                if not is_whole:
                    self._before = line[used - 1] if used else self._before
                    self._text = line[used:]
                    return
                self._end_line(has_newline=bool(newline))
            self._text = rest

    def _begin(self, line: str, is_whole: bool) -> bool:
        """Decides what a line is; False = it is not certain yet. Lines that are taken as a whole
        are dealt with here; for the others, `_in_line` is set and their mark is taken off."""
        looks = line.lstrip()
        if self._fence is not None or looks.startswith(("|", "```", "~~~")):
            if is_whole:
                self._take_whole(line)
            return is_whole
        if self._table:
            self._end_table()
        if not is_whole and _UNDECIDED.fullmatch(line):
            return False
        if _RULE.fullmatch(line):
            self._put("─" * min(self._width, 40), frozenset({"dim"}))
            self._newline()
        else:
            self._in_line = True
            self._begin_text(line)
        return True

    def _take_whole(self, line: str) -> None:
        if self._fence is not None:
            closing = line.strip()
            is_fence = closing[:1] == self._fence[0] and not closing.strip(self._fence[0])
            if is_fence and len(closing) >= len(self._fence):
                self._fence = self._highlight = None
            else:
                self._code(line)
        elif fence := _FENCE.fullmatch(line):
            if self._table:
                self._end_table()
            self._fence = fence["marks"]
            self._highlight = _highlighter(fence["language"]) if self._color else None
        elif line.lstrip().startswith("|"):
            self._table.append(line)
        else:  # begins with ``` and is no fence
            self._in_line = True
            self._begin_text(line)

    def _begin_text(self, line: str) -> None:
        """Writes what a line begins with, and takes its marks off the text."""
        used, self._styles, self._hanging, self._before = 0, frozenset(), "", ""
        while quote := _QUOTE.match(line, used):
            used = quote.end()
            self._hanging += "│ "
        self._put(self._hanging, frozenset({"dim"}))
        if heading := _HEADING.match(line, used):
            used = heading.end()
            marks = heading["marks"]
            self._styles = frozenset({"heading", "link"} if marks == "#" else {"heading"})
        elif item := _ITEM.match(line, used):
            used = item.end()
            indent = item["indent"].expandtabs(4)
            mark = "•" if item["mark"] in "-*+" else item["mark"]
            self._put(f"{indent}{mark} ", frozenset())
            self._hanging += indent + " " * (len(mark) + 1)
        else:
            indent = line[used : len(line) - len(line[used:].lstrip())] if line[used:] else ""
            used += len(indent)
            self._put(indent.expandtabs(4), frozenset())
            self._hanging += indent.expandtabs(4)
        if len(self._hanging) > self._width // 2:
            self._hanging = ""
        self._text = self._text[used:]

    def _end_line(self, *, has_newline: bool) -> None:
        self._end_word()
        self._in_line = False
        if has_newline:
            self._newline()

    # --- words ------------------------------------------------------------------------------------

    def _take(self, text: str, styles: frozenset[str]) -> None:
        for piece in _PIECE.findall(text):
            if piece[0] in " \t":
                self._end_word()
                self._space += piece
                continue
            for part in _breakable(piece):
                if len(part) == 1 and cell_len(part) == 2:  # may stand at the end of a line
                    self._end_word()
                    self._word.append((part, styles))
                    self._end_word()
                else:
                    self._word.append((part, styles))

    def _end_word(self) -> None:
        """Writes the word, on the next line if this one has no room for it."""
        if not self._word:
            return
        word, self._word = self._word, []
        space, self._space = self._space.expandtabs(4), ""
        cells = sum(cell_len(text) for text, _ in word)
        if self._column + len(space) + cells > self._width and self._column > len(self._hanging):
            self._newline()
            self._put(self._hanging, frozenset({"dim"} if self._hanging.strip() else ()))
        else:
            self._put(space, word[0][1] & self._shown)
        for text, styles in word:
            self._put(text, styles)

    def _put(self, text: str, styles: frozenset[str]) -> None:
        """Writes at the cursor; the terminal itself breaks what is longer than a line."""
        if text:
            self._show(styles)
            self._write(text)
            self._column += cell_len(text)
            if self._column > (columns := max(1, self._width_of_terminal())):
                self._column %= columns

    def _show(self, styles: frozenset[str]) -> None:
        if styles != self._shown:
            codes = ";".join(sorted({self._codes[name] for name in styles}))
            self._write((RESET if self._shown else "") + (f"\x1b[{codes}m" if codes else ""))
            self._shown = styles

    def _newline(self) -> None:
        self._show(frozenset())
        self._write("\n")
        self._column, self._space = 0, ""

    @property
    def _width(self) -> int:
        return max(MIN_WIDTH, min(self._width_of_terminal(), MAX_WIDTH))

    # --- code and tables --------------------------------------------------------------------------

    def _code(self, line: str) -> None:
        if self._highlight is not None and line.strip():
            self._write(CODE_INDENT + self._render(self._highlight(line)).rstrip("\n"))
        else:
            self._put(CODE_INDENT + line, frozenset({"code"}) if self._color else frozenset())
        self._newline()

    def _end_table(self) -> None:
        lines, self._table = self._table, []
        if len(lines) < 2 or not _TABLE_RULE.fullmatch(lines[1].strip()):
            for line in lines:
                self._put(line, frozenset())
                self._newline()
            return
        from rich.table import Table

        head, *rows = ([without_marks(cell) for cell in _cells(line)] for line in lines)
        table = Table(*head, header_style="bold")
        for row in rows[1:]:
            table.add_row(*row[: len(head)], *row[len(head) :])
        self._write(self._render(table))

    def _render(self, what: RenderableType) -> str:
        console = Console(
            file=io.StringIO(), width=self._width, force_terminal=True, highlight=False,
            color_system="standard" if self._color else None, markup=False, legacy_windows=False,
            _environ={},
        )  # fmt: skip
        with console.capture() as capture:
            console.print(what, soft_wrap=not hasattr(what, "columns"))
        return capture.get()


def _breakable(word: str) -> list[str]:
    """Wide characters one by one, the rest together: between wide ones a line may break."""
    if word.isascii():
        return [word]
    return [part for part in _WIDE.split(word) if part]


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _highlighter(language: str) -> Callable[[str], RenderableType] | None:
    """What colours a line of code, if the language is known."""
    if not language:
        return None
    from rich.syntax import Syntax

    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    if syntax.lexer is None:
        return None
    return syntax.highlight
