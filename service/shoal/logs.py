"""Log lines: one JSON object each (or plain text on a terminal), with control characters escaped.

Prompts and outputs never reach a log; fields are passed with `extra=`. How lines are written is in
`log_writer.py`: nothing that logs ever waits for whoever reads standard error.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shoal.errors import ShoalError
from shoal.log_writer import LogWriter, StderrPipe, would_wait

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}

_writer: LogWriter | None = None


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """Human-readable lines: time, level, event, then fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(
            f"{name}={json.dumps(value, default=str)}" for name, value in _fields(record).items()
        )
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        event = record.getMessage().encode("unicode_escape").decode("ascii")
        line = f"{clock} {record.levelname.lower():7} {event} {fields}".rstrip()
        if not record.exc_info:
            return line
        exception = self.formatException(record.exc_info).translate(_CONTROLS)
        return f"{line}\n{exception}"


class _WriterHandler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:  # of a value that cannot be formatted
            self.handleError(record)


@contextmanager
def logging_to_stderr(level: str, log_format: str) -> Iterator[None]:
    """Sends to standard error in `log_format` ("auto" is text on a terminal, else JSON): all logs,
    warnings and uncaught exceptions, and what this process and its children write there."""
    global _writer
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    formatter: logging.Formatter = TextFormatter() if as_text else JsonFormatter()

    def shape(line: str) -> str:
        return line.translate(_CONTROLS) if as_text else _as_json(line)

    def notice(num_lines: int) -> str:
        record = _record("log lines were dropped")
        record.num_lines = num_lines
        return formatter.format(record)

    stderr = os.dup(2)
    writer = _writer = LogWriter(stderr, notice)
    pipe = StderrPipe(lambda line: writer.put(shape(line)))
    handler = _WriterHandler(writer)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        yield
    except ShoalError:
        raise
    except Exception:
        logging.getLogger("shoal").critical("uncaught exception", exc_info=True)
        raise SystemExit(1) from None
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        pipe.end()
        if writer.close() and not would_wait(stderr):
            os.dup2(stderr, 2)
            os.close(stderr)
        else:  # what the command says at its end must not wait either
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)


def num_dropped_lines() -> int:
    """Log lines that could not be written since the start."""
    return _writer.num_dropped if _writer is not None else 0


def _as_json(line: str) -> str:
    """A line that came over standard error: a JSON object, if it is none already."""
    if line.startswith("{"):
        try:
            return json.dumps(json.loads(line))
        except (ValueError, RecursionError):
            pass
    return JsonFormatter().format(_record(line))


def _record(message: str) -> logging.LogRecord:
    return logging.LogRecord("shoal.stderr", logging.WARNING, "", 0, "%s", (message,), None)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
