"""Messages from the user: a line each, or several between triple quotes.

On a terminal with line editing, completion and a history (readline). The history is a file with
mode 0600 under $XDG_STATE_HOME (~/.local/state); lines that hold a key are not kept anywhere.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType

from shoal.commands.terminal import say

QUOTES = '"""'
MAX_HISTORY = 1000
_KEY = re.compile(
    r"\b(sk|shoal|hf|gh[pousr])[-_][A-Za-z0-9_-]{16,}|\bBearer\s+\S{8,}", re.IGNORECASE
)

Complete = Callable[[str], list[str]]
"""Takes the line so far, returns what its last word may become."""


def history_file() -> Path:
    """Where the lines of earlier chats are."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "shoal" / "chat_history"


class LineInput:
    """Reads messages from standard input."""

    def __init__(
        self,
        *,
        is_terminal: bool,
        keeps_history: bool = False,
        secrets: Collection[str] = (),
        complete: Complete = lambda line: [],
    ) -> None:
        """`secrets`: lines that hold one of these are not kept."""
        self._is_terminal = is_terminal
        self._secrets = tuple(filter(None, secrets))
        self._readline = _load_readline() if is_terminal else None
        self._history = history_file() if keeps_history and self._readline else None
        prompt, more = ("› ", "… ") if _can_show("›…") else ("> ", ". ")
        self._prompt, self._more = prompt, more
        if self._readline is not None:
            self._start_editing(complete)

    def messages(self) -> Iterator[str]:
        """Messages that are not empty, until the input ends. Ctrl-C at the prompt clears it."""
        while True:
            try:
                message = self._message(self._prompt)
            except EOFError:
                if self._is_terminal:
                    print()
                return
            except KeyboardInterrupt:
                say("\n/quit or Ctrl-D leaves")
                continue
            if message.strip():
                yield message.strip()

    def edit(self, text: str) -> str | None:
        """Has the user change a text; None if that was given up."""
        if self._readline is None:
            raise ValueError("/edit needs a terminal")
        readline = self._readline
        readline.set_startup_hook(lambda: readline.insert_text(text))
        try:
            return self._message(self._prompt).strip() or None
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        finally:
            readline.set_startup_hook(None)

    def _message(self, prompt: str) -> str:
        line = self._line(prompt)
        if not line.lstrip().startswith(QUOTES):
            return line
        lines = [line.lstrip().removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            if self._readline is not None:
                self._readline.set_startup_hook(None)
            lines.append(self._line(self._more))
        lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        """One line. Raises EOFError and KeyboardInterrupt."""
        if self._is_terminal and sys.stdout.isatty():
            line = input(prompt)
        else:
            if self._is_terminal:
                print(prompt, end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            line = line.rstrip("\n")
        if self._readline is not None and line.strip() and not self._holds_key(line):
            num_kept = self._readline.get_current_history_length()
            if num_kept == 0 or self._readline.get_history_item(num_kept) != line:
                self._readline.add_history(line)
                self._append(line)
        return line

    def _holds_key(self, line: str) -> bool:
        return bool(_KEY.search(line)) or any(secret in line for secret in self._secrets)

    # --- readline and its history -----------------------------------------------------------------

    def _start_editing(self, complete: Complete) -> None:
        readline = self._readline
        assert readline is not None
        readline.set_auto_history(False)
        readline.clear_history()
        found: list[str] = []

        def choose(word: str, number: int) -> str | None:
            if number == 0:
                line = readline.get_line_buffer()[: readline.get_endidx()]
                with contextlib.suppress(Exception):  # readline hides it; a Tab then does nothing
                    found[:] = [text for text in complete(line) if text.startswith(word)]
            return found[number] if number < len(found) else None

        readline.set_completer(choose)
        readline.set_completer_delims(" \t\n")
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        if self._history is not None:
            for line in self._read_history(self._history):
                readline.add_history(line)

    def _read_history(self, file: Path) -> list[str]:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(lines) > 2 * MAX_HISTORY:
                fresh = file.with_suffix(".new")
                with open(fresh, "w", encoding="utf-8", opener=_private) as output:
                    output.write("\n".join(lines[-MAX_HISTORY:]) + "\n")
                fresh.replace(file)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._give_up(error)
            return []
        return lines[-MAX_HISTORY:]

    def _append(self, line: str) -> None:
        if self._history is None:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self._history, "a", encoding="utf-8", opener=_private) as output:
                output.write(line.replace("\n", " ") + "\n")
        except (OSError, UnicodeEncodeError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        say(f"history is not kept: {self._history}: {reason}")
        self._history = None


def complete_files(start: str) -> list[str]:
    """Files and folders whose path begins so."""
    found = glob.glob(glob.escape(os.path.expanduser(start)) + "*")
    home = os.path.expanduser("~")
    paths = [path + "/" if os.path.isdir(path) else path for path in sorted(found)]
    is_short = start.startswith("~")
    return [f"~{path.removeprefix(home)}" if is_short else path for path in paths]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _load_readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # Windows; plain input() works there
        return None
    return readline
