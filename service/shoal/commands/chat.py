"""`shoal chat`: a conversation in the terminal, and the loop that `shoal run` has with it.

From a pipe, each line is one message and stdout gets only the answers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands import sampling
from shoal.commands.answer_view import AnswerView, interrupts, shows_markdown, without_echo
from shoal.commands.conversation import Conversation
from shoal.commands.line_input import LineInput, complete_files
from shoal.commands.slash_commands import SlashCommands
from shoal.commands.terminal import (
    DIM,
    ApiKey,
    BaseUrl,
    ModelName,
    connected,
    explain,
    fail,
    orderly_end,
    say,
    writes_text,
)

if TYPE_CHECKING:
    from shoal import Client

System = Annotated[str, typer.Option(metavar="TEXT", help="System message.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="Show answers as they are, not as formatted Markdown.")
]
History = Annotated[
    bool,
    typer.Option(
        "--history/--no-history", help="Keep what is typed at a terminal for later chats."
    ),
]


def chat(
    model: ModelName = None,
    system: System = "",
    max_tokens: sampling.MaxTokens = None,
    temperature: sampling.Temperature = None,
    top_p: sampling.TopP = None,
    seed: sampling.Seed = None,
    stop: sampling.Stop = None,
    json_schema: sampling.JsonSchema = None,
    plain: Plain = False,
    history: History = True,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Talk with a model of a running server. /help inside lists the commands.

    Without a terminal each line of stdin is one message and stdout carries only the answers.
    """
    given = sampling.Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        structured_outputs=sampling.structured_outputs(json_schema, None),
    )
    with orderly_end(), connected(base_url, api_key) as client:
        conversation = begin(client, model, system, given)
        failed = talk(conversation, plain=plain, history=history, base_url=base_url, key=api_key)
    if failed and not sys.stdin.isatty():
        raise typer.Exit(1)


def begin(client: Client, model: str | None, system: str, given: sampling.Sampling) -> Conversation:
    """A conversation with a model, without a name with the first that the server lists and that
    writes text. Raises shoal.Error. A name that is not listed is left to the server, which may say
    more."""
    listed = client.models.list().data
    found = next((each for each in listed if each.id == model), None)
    if model is None and listed:
        found = next(filter(writes_text, listed), listed[0])
    if found is not None and not writes_text(found):
        fail(f"model {found.id} writes no text; it makes embeddings: POST /v1/embeddings", 2)
    can_chat = found is None or not found.capabilities or "chat" in found.capabilities
    if system and not can_chat:
        fail(f"model {found.id if found else model} has no chat template: it takes no --system", 2)
    name = found.id if found else model
    return Conversation(client, name, system, given, can_chat=can_chat)


def talk(
    conversation: Conversation, *, plain: bool, history: bool, base_url: str | None, key: str | None
) -> bool:
    """Reads and answers until the input ends; returns whether any message failed."""
    return _Talk(conversation, plain, history, base_url, key).run()


class _Talk:
    """The loop of a chat."""

    def __init__(
        self,
        conversation: Conversation,
        plain: bool,
        history: bool,
        base_url: str | None,
        key: str | None,
    ) -> None:
        self._conversation = conversation
        self._is_terminal = sys.stdin.isatty()
        self._markdown = self._is_terminal and shows_markdown(plain)
        self._base_url = base_url
        self._commands = SlashCommands(conversation)
        self._input = LineInput(
            is_terminal=self._is_terminal,
            keeps_history=history,
            secrets=(key,) if key else (),
            complete=self._complete,
        )

    def run(self) -> bool:
        from shoal import ContextLengthExceeded, Error

        if self._is_terminal:
            name = self._conversation.model or "no model"
            kind = "" if self._conversation.can_chat else " (continues texts: no chat template)"
            say(f"{name}{kind} · /help lists the commands", DIM)
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(errors="replace")
        failed = False
        for line in self._input.messages():
            try:
                if not line.startswith("/") or "\n" in line:
                    self._ask(line)
                elif self._command(line):
                    break
            except KeyboardInterrupt:  # while a command asks the server
                say("[stopped]", DIM)
            except ContextLengthExceeded as error:
                failed = True
                say(f"{explain(error, self._base_url)}; /new begins anew")
            except Error as error:
                failed = True
                say(explain(error, self._base_url))
        return failed

    def _command(self, line: str) -> bool:
        """Runs a /command; returns whether the chat is over."""
        before = list(self._conversation.turns)
        outcome = self._commands.run(line)
        if outcome.text:
            say(outcome.text)
        question = outcome.ask
        if outcome.edit is not None:
            try:
                question = self._input.edit(outcome.edit)
            except ValueError as error:
                say(str(error))
        if outcome.ask is not None or outcome.edit is not None:
            if question is None:
                self._conversation.turns = before
            else:
                self._ask_again(question, before)
        return outcome.ends

    def _ask_again(self, question: str, before: list[dict[str, str]]) -> None:
        """Asks in place of an earlier message, which comes back if there is no answer."""
        num_turns = len(self._conversation.turns)
        try:
            self._ask(question)
        finally:
            if len(self._conversation.turns) == num_turns:
                self._conversation.turns = before

    def _ask(self, question: str) -> None:
        view = AnswerView(markdown=self._markdown)
        self._conversation.show_reasoning = view.add_reasoning
        if show_answer(self._conversation, question, view):
            say("[stopped]", DIM)
        else:
            tell_if_cut(self._conversation)
        if self._commands.shows_stats and self._conversation.speed is not None:
            say(str(self._conversation.speed), DIM)

    def _complete(self, line: str) -> list[str]:
        """What the last word of a /command may become."""
        name, space, rest = line.partition(" ")
        if not name.startswith("/"):
            return []
        if not space:
            return [f"{each} " for each in self._commands.names()]
        if " " in rest:
            return []
        arguments = self._commands.arguments(name)
        return complete_files(rest) if arguments is None else arguments


def tell_if_cut(conversation: Conversation) -> None:
    """Where people read it: the model had more to say."""
    if conversation.finish_reason == "length" and sys.stderr.isatty():
        say("[cut: max_tokens or the model's context is used up]", DIM)


def show_answer(conversation: Conversation, question: str, view: AnswerView) -> bool:
    """Asks and shows the answer as it comes; returns whether Ctrl-C stopped it. Raises
    shoal.Error."""
    answer = conversation.ask(question)
    was_stopped = False
    with without_echo():
        try:
            with interrupts() as seen:
                for delta in answer:
                    view.add(delta)
                    if seen:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            was_stopped = True
        finally:
            answer.close()  # frees the connection now
            view.end()
    return was_stopped
