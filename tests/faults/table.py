"""The table of the fault list: situation, promised, measured, pass. Hooks of pytest, which
tests/conftest.py takes over.

A test of the list says what it saw with the fixture `measured`, one row each time; one that says
nothing is a row of its own. The table is printed where such tests ran with `-m` naming them, and
written as Markdown to the file given by `--faults-table`.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.measured import ROWS

MARKERS = ("faults", "checklist")
HEAD = ("situation", "promised", "measured", "pass")
_PROPERTY = "measured"


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    situation: str
    promised: str
    measured: str
    passed: str

    def cells(self) -> tuple[str, ...]:
        return (self.situation, self.promised, self.measured, self.passed)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-table", metavar="FILE", help="write the table of the fault list")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Rows travel in the report: a worker of xdist has no other way."""
    report = yield
    if report.when == "call":
        for row in item.stash.get(ROWS, []):
            cells = (row.situation, row.promised, row.measured)
            report.user_properties.append((_PROPERTY, cells))
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = [
        report
        for kind in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.stats.get(kind, [])
        if isinstance(report, pytest.TestReport)
    ]
    lines = table(reports)
    path = config.getoption("--faults-table")
    if path:
        Path(path).write_text(markdown(lines))
    asked_for = any(marker in str(config.getoption("-m")).split() for marker in MARKERS)
    if lines and (path or (asked_for and "not faults" not in str(config.getoption("-m")))):
        terminalreporter.section("the fault list")
        for text in aligned(lines):
            terminalreporter.write_line(text)


def table(reports: Iterable[pytest.TestReport]) -> list[Line]:
    """One line for each row that was measured, and for each test of the list that measured none."""
    passed: dict[str, str] = {}
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for report in reports:
        if not any(marker in report.keywords for marker in MARKERS):
            continue
        name = report.nodeid
        if report.failed:
            passed[name] = "no"
        elif report.skipped:
            passed.setdefault(name, "skipped")
        elif report.when == "call":
            passed.setdefault(name, "yes")
        found = [tuple(cells) for key, cells in report.user_properties if key == _PROPERTY]
        rows.setdefault(name, []).extend(row for row in found if row not in rows[name])
    return [
        Line(*row, passed[name])
        for name in passed
        for row in rows[name] or [(_words(name), "", "")]
    ]


def _words(name: str) -> str:
    """tests/a.py::test_what_it_says[x] -> "what it says [x]"."""
    return name.rpartition("::")[2].removeprefix("test_").replace("_", " ").replace("[", " [")


def aligned(lines: list[Line]) -> list[str]:
    rows = [HEAD, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    text = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [text[0], "  ".join("-" * width for width in widths), *text[1:], _count(lines)]


def markdown(lines: list[Line]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *(line.cells() for line in lines)]
    cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join([*cells, "", _count(lines), ""])


def _count(lines: list[Line]) -> str:
    counts = {word: sum(line.passed == word for line in lines) for word in ("yes", "no", "skipped")}
    return ", ".join(f"{count} {word}" for word, count in counts.items())
