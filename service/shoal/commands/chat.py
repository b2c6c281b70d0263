"""`shoal chat`: a conversation in the terminal. `Session` has its state and the /commands.

On a terminal, input has line editing and history (readline). From a pipe, each line is one message
and stdout gets only the answers.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands.terminal import ApiKey, BaseUrl, ModelName, connected, explain, pick_model

if TYPE_CHECKING:
    from shoal import Client

HELP = """\
/reset         forget the conversation
/system TEXT   set the system message (without TEXT: remove it) and start over
/model NAME    use another model (without NAME: list them)
/save FILE     write the conversation as JSON
/help          this list
/quit          leave (also Ctrl-D)
Ctrl-C stops an answer."""


@dataclass(slots=True)
class Session:
    """The conversation so far and the parameters of its requests."""

    client: Client
    model: str | None = None
    system: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    show_reasoning: Callable[[str], None] = lambda text: None

    @property
    def messages(self) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    def ask(self, text: str) -> Generator[str]:
        """Yields the answer in pieces. A partial answer stays in the conversation; a message that
        got no answer is removed, so that roles keep alternating."""
        self.turns.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            with self.client.chat.create(
                self.messages,
                stream=True,
                model=self.model,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                seed=self.seed,
            ) as stream:
                for chunk in stream:
                    self.show_reasoning(chunk.reasoning_of(0))
                    if delta := chunk.text_of(0):
                        pieces.append(delta)
                        yield delta
        finally:
            if pieces:
                self.turns.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.turns.pop()

    def command(self, line: str) -> str:
        """Runs a /command; returns text for the user."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        match name:
            case "help":
                return HELP
            case "reset":
                self.turns.clear()
                return "conversation forgotten"
            case "system":
                self.system = rest
                self.turns.clear()
                return "system message set" if rest else "system message removed"
            case "model":
                return self._use_model(rest)
            case "save":
                return self._save(rest)
            case _:
                return f"no command /{name}; /help lists them"

    def _use_model(self, name: str) -> str:
        known = [model.id for model in self.client.models.list().data]
        if not name:
            return "models: " + ", ".join(known)
        if name not in known:
            return f"no model {name}; there are {', '.join(known)}"
        self.model = name
        return f"model {name}"

    def _save(self, file: str) -> str:
        if not file:
            return "/save needs a file name"
        saved = {"model": self.model, "messages": self.messages}
        try:
            Path(file).expanduser().write_text(
                json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            return f"cannot write {file}: {error.strerror}"
        return f"saved to {file}"


def chat(
    model: ModelName = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System message.")] = "",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most tokens per answer.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, metavar="T")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same text.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Talk with a model in the terminal. /help inside lists the commands.

    Without a terminal each line of stdin is one message and stdout carries only the answers.
    """
    with connected(base_url, api_key) as client:
        model = pick_model(client, model)
        session = Session(client, model, system, max_tokens, temperature, seed)
        interactive = sys.stdin.isatty()
        if interactive:
            session.show_reasoning = _show_reasoning
        if interactive:
            _print_status(f"{model or 'no model'} · /help lists the commands")
        failed = _run_loop(session, interactive, base_url)
    if failed and not interactive:
        raise typer.Exit(1)


def _run_loop(session: Session, interactive: bool, base_url: str | None) -> bool:
    """Reads and answers until the input ends; returns whether any message failed."""
    from shoal import Error

    failed = False
    for line in _lines(interactive):
        if line in ("/quit", "/exit"):
            break
        try:
            if line.startswith("/"):
                _print_status(session.command(line))
            else:
                _print_answer(session, line)
        except Error as error:
            failed = True
            _print_status(explain(error, base_url))
    return failed


def _lines(interactive: bool) -> Iterator[str]:
    """Yields input lines that are not empty. Ctrl-C at the prompt clears the line."""
    if not interactive:
        for line in sys.stdin:
            if line.strip():
                yield line.strip()
        return
    _start_line_editing()
    while True:
        try:
            line = input("› ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            _print_status("\n/quit or Ctrl-D leaves")
            continue
        if line:
            yield line


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The signals of Ctrl-C so far. Each raises KeyboardInterrupt as ever, but Python throws away
    one that comes while it runs a destructor or a callback."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _print_answer(session: Session, line: str) -> None:
    answer = session.ask(line)
    try:
        with _interrupts() as interrupts:
            for delta in answer:
                sys.stdout.write(delta)
                sys.stdout.flush()
                if interrupts:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        _print_status(" [stopped]")
    finally:
        answer.close()  # frees the connection now
        print(flush=True)


def _show_reasoning(text: str) -> None:
    """On the terminal, dim; it is no part of the answer."""
    if text:
        sys.stderr.write(f"\x1b[2m{text}\x1b[0m")
        sys.stderr.flush()


def _start_line_editing() -> None:
    try:
        import readline
    except ImportError:  # Windows; plain input() works there
        return
    readline.set_auto_history(True)


def _print_status(text: str) -> None:
    """Prints to stderr, so that stdout has only the answers."""
    print(text, file=sys.stderr, flush=True)
