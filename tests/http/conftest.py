"""After every test of HTTP no task's error is lost and no process is left."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


class _Lost(logging.Handler):
    """What asyncio says of exceptions that nobody fetched."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "never retrieved" in record.getMessage():
            self.lines.append(f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}")


@pytest.fixture(autouse=True)
def _nothing_is_lost() -> Iterator[None]:
    lost, log = _Lost(), logging.getLogger("asyncio")
    log.addHandler(lost)
    before = _children()
    yield
    log.removeHandler(lost)
    assert lost.lines == []
    assert _children() <= before, "a process is left"


def _children() -> set[str]:
    """Process ids, but for the helpers that this process keeps for the next request."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return set()
    found = {pid for task in tasks.iterdir() for pid in _read(task / "children").split()}
    return {pid for pid in found if "shoal.text." not in _read(Path("/proc", pid, "cmdline"))}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a thread that has just ended
        return ""
