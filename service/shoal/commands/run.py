"""`shoal run`: talk with a model, or get one answer, without starting a server first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands import sampling
from shoal.commands.answer_view import AnswerView, shows_markdown
from shoal.commands.chat import History, Plain, System, begin, show_answer, talk, tell_if_cut
from shoal.commands.completion import complete_model
from shoal.commands.terminal import (
    DEFAULT_URL,
    DIM,
    ApiKey,
    BaseUrl,
    connected,
    fail,
    orderly_end,
    say,
)

if TYPE_CHECKING:
    from shoal import Client
    from shoal.commands.private_server import PrivateServer

_CONNECT_S = 0.3
_LOOK_S = 2.0


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name, as in `shoal models`, or path of a model.",
            autocompletion=complete_model,
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT",
            help="One question; - stands for what comes through a pipe. Without it a chat begins, "
            "or the pipe has the question.",
        ),
    ] = None,
    system: System = "",
    max_tokens: sampling.MaxTokens = None,
    temperature: sampling.Temperature = None,
    top_p: sampling.TopP = None,
    seed: sampling.Seed = None,
    stop: sampling.Stop = None,
    json_schema: sampling.JsonSchema = None,
    regex: sampling.Regex = None,
    plain: Plain = False,
    history: History = True,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Talk with a model, or answer one prompt, with a server that is started for it if none runs.

    A server at the default address, or at --base-url, is used where it serves the model. Otherwise
    a private one runs as long as this command and leaves nothing behind. In a pipe, standard output
    has the answer and nothing else.
    """
    given = sampling.Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        structured_outputs=sampling.structured_outputs(json_schema, regex),
    )
    with orderly_end(), _server_of(model, base_url, api_key) as (client, name):
        question = _question(prompt)
        conversation = begin(client, name, system, given)
        if question is None:
            url = client.base_url
            talk(conversation, plain=plain, history=history, base_url=url, key=api_key)
            return
        if not question:
            fail("the prompt is empty: give it as an argument or through a pipe", 2)
        view = AnswerView(markdown=shows_markdown(plain))
        conversation.show_reasoning = view.add_reasoning
        if show_answer(conversation, question, view):
            raise KeyboardInterrupt
        tell_if_cut(conversation)


def _question(words: list[str] | None) -> str | None:
    """The prompt; None = there is none, and a terminal to ask for it. Standard input is read only
    where it stands for the prompt or a part of it: it may belong to somebody else."""
    if not words and (sys.stdin is None or sys.stdin.isatty()):
        return None
    parts = words or ["-"]
    if "-" not in parts:
        return " ".join(parts).strip()
    try:
        piped = sys.stdin.read().strip() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        fail("what comes through the pipe is no UTF-8 text", 2)
    at = parts.index("-")
    around = (" ".join(parts[:at]), piped, " ".join(parts[at + 1 :]))
    return "\n\n".join(filter(None, around))


@contextmanager
def _server_of(
    model: str, base_url: str | None, api_key: str | None
) -> Iterator[tuple[Client, str]]:
    """A client of a server that serves the model, and the model's name there. Errors of the client
    end the command with a line."""
    if base_url is not None or _is_served(model, api_key):
        with connected(base_url, api_key) as client:
            names = [each.id for each in client.models.list().data]
            if model not in names:
                fail(f"{client.base_url} has no model {model}: there is {', '.join(names)}", 2)
            yield client, model
        return
    from shoal.commands.private_server import StartError, private_server

    try:
        with private_server(model) as server:
            from shoal import Client  # noqa: F401  # while the server starts, for `connected`

            _wait(server, model)
            with connected(server.url, server.key) as client:
                yield client, client.models.list().data[0].id
    except StartError as error:
        fail(str(error), max(1, error.exit_code))


def _wait(server: PrivateServer, model: str) -> None:
    is_shown = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if is_shown:
        sys.stderr.write(f"\x1b[2mstarting {model} …\x1b[0m")
        sys.stderr.flush()
    try:
        server.wait_until_ready()
    finally:
        if is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _is_served(model: str, api_key: str | None) -> bool:
    """Does a server at the default address serve it, and us?"""
    import socket

    host, _, port = DEFAULT_URL.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except OSError:
        return False
    from shoal import Client, Error

    try:
        with Client(DEFAULT_URL, api_key=api_key, timeout=_LOOK_S, max_retries=0) as client:
            listed = client.models.list().data
    except Error:
        return False
    is_served = any(each.id == model and each.ready is not False for each in listed)
    if is_served and sys.stderr.isatty():
        say(f"{model} of the server at {DEFAULT_URL}", DIM)
    return is_served
