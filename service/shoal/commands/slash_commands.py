"""The /commands of a chat. Each changes the conversation or the view and says so in a line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shoal.commands.conversation import Conversation
from shoal.commands.sampling import settable
from shoal.commands.terminal import writes_text

HELP = """\
/new               forget the conversation
/system TEXT       set the system message (without TEXT: remove it) and start over
/model NAME        go on with another model (without NAME: list them)
/set NAME VALUE    such as /set temperature 0.5; VALUE off = the model's default
/set               show what is set
/retry             ask the last message again
/edit              change the last message and ask it instead
/save FILE         write the conversation as JSON
/load FILE         go on with a conversation that was saved
/stats             show the speed of each answer, or no longer
/help              this list
/quit              leave (also Ctrl-D)
\"\"\" begins and ends a message of several lines. Ctrl-C stops an answer and keeps it."""


@dataclass(slots=True)
class Outcome:
    """What a /command leads to."""

    text: str = ""
    """Said to the user."""
    ask: str | None = None
    """A message to ask, after `text`."""
    edit: str | None = None
    """A message for the user to change, and to ask then."""
    ends: bool = False


@dataclass(slots=True)
class SlashCommands:
    """The commands on one conversation. `shows_stats`: print the speed after each answer."""

    conversation: Conversation
    shows_stats: bool = False

    def run(self, line: str) -> Outcome:
        """Runs a line that begins with a slash. Raises shoal.Error where the server is asked."""
        name, _, rest = line[1:].partition(" ")
        command = self._table().get(name)
        if command is None:
            near = difflib.get_close_matches(name, self._table(), n=1)
            hint = f"did you mean /{near[0]}? " if near else ""
            return Outcome(f"no command /{name}: {hint}/help lists them")
        try:
            outcome = command(rest.strip())
        except ValueError as error:
            return Outcome(str(error))
        return Outcome(outcome) if isinstance(outcome, str) else outcome

    def names(self) -> list[str]:
        """With their slash, for completion."""
        return [f"/{name}" for name in self._table()]

    def arguments(self, name: str) -> list[str] | None:
        """What may follow a command, for completion; None = the name of a file."""
        if name in ("/save", "/load"):
            return None
        if name == "/set":
            return settable()
        if name == "/model":
            return self._names()
        return []

    def _table(self) -> dict[str, Callable[[str], str | Outcome]]:
        return {
            "new": self._new,
            "system": self._system,
            "model": self._model,
            "set": self._set,
            "retry": self._retry,
            "edit": self._edit,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
            "help": lambda rest: HELP,
            "quit": lambda rest: Outcome(ends=True),
            "exit": lambda rest: Outcome(ends=True),
        }

    def _new(self, rest: str) -> str:
        self.conversation.new()
        return "conversation forgotten"

    def _system(self, rest: str) -> str:
        self.conversation.system = rest
        self.conversation.new()
        return "system message set" if rest else "system message removed"

    def _model(self, rest: str) -> str:
        if not rest:
            return "models: " + ", ".join(self._names())
        self.conversation.use_model(rest)
        return f"model {rest}"

    def _names(self) -> list[str]:
        """Of the models that a chat may have."""
        return [m.id for m in self.conversation.client.models.list().data if writes_text(m)]

    def _set(self, rest: str) -> str:
        sampling = self.conversation.sampling
        if not rest:
            given = {k: v for k, v in sampling.given().items() if k != "structured_outputs"}
            shown = ", ".join(f"{name} {value}" for name, value in given.items())
            return f"set: {shown or 'nothing'}; there are {', '.join(settable())}"
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise ValueError(f"/set {name} needs a value, or off")
        return sampling.set(name, value.strip())

    def _retry(self, rest: str) -> Outcome:
        return Outcome(ask=self.conversation.take_back())

    def _edit(self, rest: str) -> Outcome:
        return Outcome(edit=self.conversation.take_back())

    def _save(self, rest: str) -> str:
        if not rest:
            raise ValueError("/save needs a file name")
        try:
            self.conversation.save(Path(rest).expanduser())
        except OSError as error:
            raise ValueError(f"cannot write {rest}: {error.strerror}") from error
        return f"saved to {rest}"

    def _load(self, rest: str) -> str:
        if not rest:
            raise ValueError("/load needs a file name")
        try:
            self.conversation.load(Path(rest).expanduser())
        except OSError as error:
            raise ValueError(f"cannot read {rest}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{rest} is no saved conversation: {error}") from error
        return f"{len(self.conversation.turns)} messages loaded from {rest}"

    def _stats(self, rest: str) -> str:
        self.shows_stats = not self.shows_stats
        return f"speed is {'shown after each answer' if self.shows_stats else 'not shown'}"
