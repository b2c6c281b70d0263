"""Shows an answer while it arrives: as Markdown on a terminal, as it is in a pipe."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shoal.commands.terminal import DIM, say, styled, visible


def shows_markdown(plain: bool) -> bool:
    """Does standard output understand styles, and are they wanted?"""
    return not plain and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def shows_color() -> bool:
    """https://no-color.org"""
    return not os.environ.get("NO_COLOR")


class AnswerView:
    """Writes one answer. Its text goes to standard output, all else to standard error."""

    def __init__(self, *, markdown: bool) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._reasoning_is_open = False
        self._writer = None
        if markdown:
            from shoal.commands.markdown_writer import MarkdownWriter

            self._writer = MarkdownWriter(_write, _columns, color=shows_color())

    def add(self, text: str) -> None:
        """A piece of the answer."""
        if self._reasoning_is_open:
            self._reasoning_is_open = False
            say("")
        if self._writer is not None:
            self._writer.feed(text)
        else:
            sys.stdout.write(visible(text) if self._is_terminal else text)
        sys.stdout.flush()

    def add_reasoning(self, text: str) -> None:
        """It is no part of the answer: dim, and only on a terminal."""
        if text and sys.stderr.isatty():
            self._reasoning_is_open = True
            sys.stderr.write(styled(text, DIM))
            sys.stderr.flush()

    def end(self) -> None:
        """The answer is over, or was stopped."""
        if self._reasoning_is_open:
            say("")
        if self._writer is not None:
            self._writer.finish()
        else:
            sys.stdout.write("\n")
        sys.stdout.flush()


def _write(text: str) -> None:
    sys.stdout.write(text)


def _columns() -> int:
    return shutil.get_terminal_size().columns


@contextmanager
def interrupts() -> Iterator[list[int]]:
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


@contextmanager
def without_echo() -> Iterator[None]:
    """What is typed meanwhile waits for the next prompt, unseen; the terminal is then as before."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
