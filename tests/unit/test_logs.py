"""Log lines: one each whatever they hold, parsable as JSON."""

import json
import logging
import sys
from typing import Any

import pytest

from shoal.logs import JsonFormatter, TextFormatter

HOSTILE = ["a\r\nb", "\x1b[31m", "é日\u2028", "\x00", '"quoted"', "x" * 100_000, "\ud800"]


def record(message: str, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "name": "shoal.x", "levelno": 20,
                                  "levelname": "INFO"})  # fmt: skip
    vars(made).update(fields)
    return made


@pytest.mark.parametrize("text", HOSTILE)
def test_a_json_line_is_one_line_and_gives_its_fields_back(text: str) -> None:
    line = JsonFormatter().format(record(text, request_id=text, status=200))
    assert line.isascii()
    assert line.isprintable()
    parsed = json.loads(line)
    assert (parsed["event"], parsed["request_id"], parsed["status"]) == (text, text, 200)
    assert parsed["level"] == "info"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_line_is_one_line_too(text: str) -> None:
    line = TextFormatter().format(record(text, request_id=text))
    assert line.isascii()
    assert line.isprintable()


def test_an_exception_is_a_field_of_its_line() -> None:
    try:
        raise ValueError("oh")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert "ValueError: oh" in json.loads(line)["exception"]
    assert "\n" not in line


def test_what_is_not_json_is_written_as_text() -> None:
    assert json.loads(JsonFormatter().format(record("x", thing=object)))["thing"]
