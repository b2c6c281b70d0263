"""Shared by the sub-commands: common options, error output, connecting to a server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from shoal.commands.completion import complete_served

if TYPE_CHECKING:
    from rich.table import Table

    from shoal import Client
    from shoal.client import Model

DEFAULT_URL = "http://127.0.0.1:8000"
DIM = "2"

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        envvar=["SHOAL_BASE_URL", "OPENAI_BASE_URL"],
        help=f"Address of the server; else {DEFAULT_URL}.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar=["SHOAL_API_KEY", "OPENAI_API_KEY"],
        help="Key to send. Other users of the machine can see flags: prefer the variable.",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Model; without it the first listed.",
        autocompletion=complete_served,
    ),
]


_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}


def visible(text: str) -> str:
    """Text of a model or a server for a terminal: control characters, which could command the
    terminal, as escapes; line breaks and tabs stay."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def say(text: str, style: str = "") -> None:
    """A line to standard error, so that standard output has only what was asked for. `style`: see
    `styled`."""
    with suppress(OSError):
        print(styled(text, style), file=sys.stderr, flush=True)


def styled(text: str, style: str) -> str:
    """Text for standard error, with a code of ANSI's "select graphic rendition" if that shows such;
    control characters in the text are made visible."""
    is_plain = not style or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb"
    return visible(text) if is_plain else f"\x1b[{style}m{visible(text)}\x1b[0m"


def print_table(table: Table) -> None:
    """To standard output: as wide as the terminal, or where there is none as wide as it needs."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, width=width).print(table)


@contextmanager
def orderly_end() -> Iterator[None]:
    """However the command ends, its `finally` clauses run and there is no traceback: at Ctrl-C,
    SIGTERM and SIGHUP with the exit codes that shells give, and where the reader of its output has
    seen enough with 0. A signal that was ignored at the start stays so."""

    def end(number: int, _: FrameType | None) -> None:
        for each in before:  # a second one must not interrupt what the first has begun
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    before = {
        number: signal.signal(number, end)
        for number in numbers
        if signal.getsignal(number) is signal.SIG_DFL
    }
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        sys.stdout = None  # prevents a second error when Python flushes at exit
        raise typer.Exit(0) from None
    except UnicodeEncodeError as error:
        fail(f"this terminal cannot show the text ({error.encoding}): set PYTHONUTF8=1")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Prints one line to stderr, unless nothing can be written there, and exits."""
    with suppress(OSError):
        print(f"shoal: {message}", file=sys.stderr)
    raise typer.Exit(exit_code)


@contextmanager
def connected(base_url: str | None, api_key: str | None) -> Iterator[Client]:
    """Yields an SDK client; its errors end the command with a one-line message."""
    from shoal import Client, Error

    try:
        with Client(base_url=base_url, api_key=api_key) as client:
            yield client
    except Error as error:
        fail(explain(error, base_url))
    except ValueError as error:  # an invalid address
        fail(str(error), exit_code=2)


def pick_model(client: Client, model: str | None) -> str | None:
    """`model`, or the first one the server lists that writes text, which is its default model."""
    if model is None and (models := client.models.list().data):
        return next(filter(writes_text, models), models[0]).id
    return model


def writes_text(model: Model) -> bool:
    """Or does it only make embeddings? Servers that do not say have models that write."""
    return not model.capabilities or "completion" in model.capabilities


def explain(error: Exception, base_url: str | None) -> str:
    """Converts an SDK error to a message for the terminal."""
    from shoal import AuthenticationFailed, ConnectionFailed

    if isinstance(error, ConnectionFailed):
        return f"no server at {base_url or DEFAULT_URL}: start one with `shoal serve` ({error})"
    if isinstance(error, AuthenticationFailed):
        return f"{error}: give a key with --api-key"
    return str(error) or type(error).__name__
