"""SECURITY.md names tests that exist, and what it says of all tests holds."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)?::(test_\w+)`")


def named_tests() -> list[tuple[str, str]]:
    """(file, test) in the order of the page; a test without a file is of the file before it."""
    found, file = [], ""
    for line in TEXT.splitlines():
        for path, test in NAMED.findall(line):
            file = path or file
            found.append((file, test))
    return found


@cache
def functions_of(file: str) -> set[str]:
    path = ROOT / file
    if not path.exists():
        return set()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def test_a_test_is_named_for_each_promise() -> None:
    rows = [line for line in TEXT.partition("## What is promised")[2].splitlines() if "| `" in line]
    assert len(named_tests()) > len(rows) > 20


@pytest.mark.parametrize("file", sorted({file for file, _ in named_tests()}))
def test_what_is_named_exists(file: str) -> None:
    assert {test for of, test in named_tests() if of == file} - functions_of(file) == set()


def test_every_server_of_the_tests_is_searched_for_what_it_must_not_show() -> None:
    """Where a `shoal serve` of the tests is started, the canaries are sent and looked for."""
    served = (ROOT / "tests/conformance/served.py").read_text()
    assert "canary.show(" in served
    assert "canary.seen_in(" in served
