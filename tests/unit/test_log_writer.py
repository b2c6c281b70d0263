"""Writing log lines where nobody reads them: nothing waits, what is lost is counted and said."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.log_writer import MAX_LINE_BYTES, LogWriter, StderrPipe, would_wait
from shoal.logs import logging_to_stderr, num_dropped_lines

PIPE_BYTES = 4096
LINE = "x" * 99


def notice(count: int) -> str:
    return f"{count} dropped"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(to read, to write), of the smallest size."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield out, into
    for fd in (out, into):
        try:
            os.close(fd)
        except OSError:
            pass


def read_to_end(fd: int) -> list[str]:
    with os.fdopen(fd, "rb") as file:
        return file.read().decode().splitlines()


def test_lines_come_in_order_and_all_of_them(pipe: tuple[int, int]) -> None:
    out, into = pipe
    writer = LogWriter(into, notice)
    lines = [f"line {number}" for number in range(50)]
    for line in lines:
        writer.put(line)
    assert writer.close()
    os.close(into)
    assert read_to_end(out) == lines
    assert writer.num_dropped == 0


def test_a_pipe_that_nobody_reads_drops_and_counts_and_says_so_later(
    pipe: tuple[int, int],
) -> None:
    out, into = pipe
    writer = LogWriter(into, notice, max_bytes=10_000)
    began = time.monotonic()
    for _ in range(1000):
        writer.put(LINE)
    assert time.monotonic() - began < 1
    assert not writer.close(timeout_s=0.2)
    dropped = writer.num_dropped
    assert dropped >= 1000 - (10_000 + 2 * PIPE_BYTES + 64_000) // 100
    assert would_wait(into)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.extend(read_to_end(out)))
    reader.start()
    assert writer.close(timeout_s=10)
    os.close(into)
    reader.join(10)
    assert received == [LINE] * (1000 - dropped) + [notice(dropped)]


def test_a_full_disk_is_counted() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        writer = LogWriter(full.fileno(), notice)
        for _ in range(10):
            writer.put(LINE)
        assert writer.close()
    assert writer.num_dropped == 10


def test_a_reader_that_is_gone_is_counted(pipe: tuple[int, int]) -> None:
    out, into = pipe
    os.close(out)
    writer = LogWriter(into, notice)
    writer.put(LINE)
    assert writer.close()
    assert writer.num_dropped == 1


def test_standard_error_comes_line_by_line(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    before = os.dup(2)
    pipe = StderrPipe(lines.append)
    os.write(2, b"one\ntw")
    os.write(2, b"o\n\n" + b"y" * (MAX_LINE_BYTES + 5) + b"\nno end")
    subprocess.run([sys.executable, "-Sc", "import os; os.write(2, b'!\\n\\xff\\n')"], check=True)
    pipe.end()
    os.dup2(before, 2)
    os.write(2, b"after\n")
    assert lines[:2] == ["one", "two"]
    assert "".join(lines[2:-2]) == "y" * (MAX_LINE_BYTES + 5)
    assert lines[-2:] == ["no end!", "\\xff"]
    assert capfd.readouterr().err == "after\n"


def logged(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_whatever_reaches_standard_error_is_one_json_object_a_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logging_to_stderr("info", "json"):
        logging.getLogger("shoal.x").info("mine", extra={"request_id": "a\x1b[31m\nb"})
        warnings.warn("of a library", stacklevel=1)
        os.write(2, b"of a child\x1b[0m\n")
        os.write(2, b'{"event": "already"}\n')
        os.write(2, b"{no json\n")
    first, *rest = sorted(logged(capfd), key=lambda line: line.get("logger", ""))[::-1]
    assert (first["event"], first["request_id"]) == ("mine", "a\x1b[31m\nb")
    events = [line["event"] for line in rest]
    assert {"of a child\x1b[0m", "already", "{no json"} < set(events)
    assert any("of a library" in event for event in events)
    assert num_dropped_lines() == 0


def test_a_text_log_has_no_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", "text"):
        os.write(2, b"of a child\x1b[0m\r\n")
        try:
            raise ValueError("\x1b[31mred")
        except ValueError:
            logging.getLogger("shoal.x").exception("failed")
    written = capfd.readouterr().err
    assert "of a child\\x1b[0m" in written
    assert "ValueError: \\x1b[31mred" in written
    assert "\x1b" not in written
    assert "\r" not in written


def test_an_uncaught_exception_is_a_line_too(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, logging_to_stderr("info", "json"):
        raise ZeroDivisionError
    assert ended.value.code == 1
    (line,) = logged(capfd)
    assert (line["level"], line["event"]) == ("critical", "uncaught exception")
    assert "ZeroDivisionError" in line["exception"]
    with pytest.raises(ConfigError), logging_to_stderr("info", "json"):
        raise ConfigError("the command says it")
    assert logged(capfd) == []


def test_a_command_ends_though_its_standard_error_is_blocked(pipe: tuple[int, int]) -> None:
    """And what it says last, which nobody would see, does not wait."""
    code = """
import logging, os, sys
from shoal.logs import logging_to_stderr
with logging_to_stderr("info", "json"):
    for number in range(2000):
        logging.getLogger("x").info("line %s", number)
print("the end" * 1000, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "service")},
        stderr=pipe[1], timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0
