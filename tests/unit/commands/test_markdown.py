"""Markdown on a terminal while it arrives: what is shown, and that it does not depend on pieces."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from shoal.commands.markdown_spans import MAX_SPAN_CHARS, without_marks
from shoal.commands.markdown_writer import MarkdownWriter

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
SAMPLE = """# Title
Some **bold text** and *italics* with `code`, 2*3*4 and a_name_b, [link](http://x.y).
- an item that is long enough to be wrapped over several lines of a narrow terminal
  - nested **item**
10. ten

> quoted text that goes on and on and on and on

| a | b |
|---|:-:|
| 1 | **2** |

```python
def f(x):  # **no mark**
    return "中文"
```
***
中文字符很长中文字符很长中文字符很长中文字符很长
Open **never closed, ***both*** ~~gone~~ __init__ end *"""


def shown(*pieces: str, width: int = 40, color: bool = True) -> str:
    written: list[str] = []
    writer = MarkdownWriter(written.append, lambda: width, color=color)
    for piece in pieces:
        writer.feed(piece)
    writer.finish()
    return "".join(written)


def plain(text: str, width: int = 40) -> str:
    return ESCAPES.sub("", shown(text, width=width))


@given(st.lists(st.integers(1, 30)), st.integers(0, 1))
def test_what_is_shown_does_not_depend_on_the_pieces(sizes: list[int], color: int) -> None:
    pieces, rest = [], SAMPLE
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert shown(*pieces, rest, color=bool(color)) == shown(SAMPLE, color=bool(color))


@given(st.text(alphabet="*_`~[]()\\#>|-1. \nab中", max_size=60))
def test_any_text_one_by_one_is_as_at_once_and_loses_no_letter(text: str) -> None:
    whole = shown(text)
    assert shown(*text) == whole
    assert re.sub(r"[^ab中]", "", ESCAPES.sub("", whole)) == re.sub(r"[^ab中]", "", text)


def test_only_ever_appends() -> None:
    assert not re.search(r"\x1b\[[0-9;]*[^0-9;m]|\r", shown(SAMPLE))


@pytest.mark.parametrize("width", [10, 24, 40, 79])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = SAMPLE.replace("def f(x):  # **no mark**", "x = 1").replace('    return "中文"', "")
    text = text.replace("http://x.y", "u")
    for line in plain(text, width).splitlines():
        assert cell_len(line) <= width


def test_blocks() -> None:
    lines = plain(SAMPLE).splitlines()
    assert lines[0] == "Title"
    assert "• an item that is long enough to be" in lines
    assert "  wrapped over several lines of a narrow" in lines
    assert "  • nested item" in lines
    assert "10. ten" in lines
    assert "│ and on" in lines
    assert "│ 1 │ 2 │" in lines
    assert "  def f(x):  # **no mark**" in lines
    assert "─" * 40 in lines


def test_wide_characters_are_wrapped_by_their_cells() -> None:
    assert plain("中" * 25, width=20).splitlines() == ["中" * 10, "中" * 10, "中" * 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**a** *b* `c` ~~d~~", "a b c d"),
        ("2*3*4", "2*3*4"),
        ("a_name_b __init__", "a_name_b init"),
        ("a * b * c", "a * b * c"),
        ("*open", "*open"),
        ("`a ** b`", "a ** b"),
        ("``a ` b``", "a ` b"),
        (r"\*a\*", "*a*"),
        ("[x](http://a)", "x (http://a)"),
        ("[http://a](http://a)", "http://a"),
        ("[x] (y)", "[x] (y)"),
        ("这是**重点**内容", "这是重点内容"),
    ],
)
def test_marks_within_a_line(text: str, expected: str) -> None:
    assert without_marks(text) == expected


def test_an_open_mark_does_not_hold_back_an_answer() -> None:
    written: list[str] = []
    writer = MarkdownWriter(written.append, lambda: 80)
    writer.feed("**" + "word " * (MAX_SPAN_CHARS // 5 + 2))
    assert "word word" in "".join(written)


def test_words_come_as_soon_as_they_are_whole() -> None:
    written: list[str] = []
    writer = MarkdownWriter(written.append, lambda: 80)
    writer.feed("Once upon a ti")
    assert "".join(written) == "Once upon a"


def test_control_characters_cannot_command_the_terminal() -> None:
    assert plain("a\x1b[2Jb\x07\x9b") == "a\\x1b[2Jb\\x07\\x9b\n"


def test_a_line_break_of_two_characters_may_come_in_two_pieces() -> None:
    assert shown("a\r", "\nb\r") == shown("a\r\nb\r") == "a\nb\\x0d\n"


def test_without_color_there_are_styles_but_no_colors() -> None:
    codes = re.findall(r"\x1b\[([0-9;]*)m", shown(SAMPLE, color=False))
    assert {int(code) for one in codes for code in one.split(";") if code} <= {0, 1, 2, 3, 4, 9}
    assert "\x1b[36mcode" in shown("`code`")
