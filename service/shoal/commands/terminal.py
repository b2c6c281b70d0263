"""Shared by the sub-commands: common options, error output, connecting to a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from shoal import Client

DEFAULT_URL = "http://127.0.0.1:8000"

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
    typer.Option("--model", "-m", metavar="NAME", help="Model; without it the first listed."),
]


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
    """`model`, or the first one the server lists, which is its default model."""
    if model is None and (models := client.models.list().data):
        return models[0].id
    return model


def explain(error: Exception, base_url: str | None) -> str:
    """Converts an SDK error to a message for the terminal."""
    from shoal import AuthenticationFailed, ConnectionFailed

    if isinstance(error, ConnectionFailed):
        return f"no server at {base_url or DEFAULT_URL}: start one with `shoal serve` ({error})"
    if isinstance(error, AuthenticationFailed):
        return f"{error}: give a key with --api-key"
    return str(error) or type(error).__name__
