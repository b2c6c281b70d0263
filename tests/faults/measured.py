"""What the tests of the fault list measured, for the table at the end of a run."""

from dataclasses import dataclass
from typing import Protocol

import pytest


@dataclass(frozen=True)
class Row:
    """One line of the table: a situation, what is promised and what was seen."""

    situation: str
    promised: str
    measured: str


class Measured(Protocol):
    """Records a row, before the test asserts it."""

    def __call__(self, situation: str, *, promised: str, measured: str) -> None: ...


ROWS = pytest.StashKey[list[Row]]()
"""On a test's item."""


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    rows = request.node.stash.setdefault(ROWS, [])

    def record(situation: str, *, promised: str, measured: str) -> None:
        rows.append(Row(situation, promised, measured))

    return record
