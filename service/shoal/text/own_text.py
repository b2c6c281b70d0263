"""Text of a message that we wrote for the model, with a caller's words in it.

Only what the template or we write may become control tokens (`chat_tokens.py`), so such a text
remembers whose each part is.
"""

from collections.abc import Callable
from typing import NamedTuple, Self


class Part(NamedTuple):
    """A piece of text, and whether we wrote it."""

    text: str
    is_ours: bool


class OwnText(str):
    """A string made of parts."""

    parts: tuple[Part, ...]

    def __new__(cls, *parts: Part) -> Self:
        self = super().__new__(cls, "".join(part.text for part in parts))
        self.parts = parts
        return self

    def marked(self, mark: Callable[[str], str]) -> str:
        """The text with `mark` applied to the parts of the caller."""
        return "".join(text if is_ours else mark(text) for text, is_ours in self.parts)


def ours(text: str) -> Part:
    return Part(text, True)


def theirs(text: str) -> Part:
    return Part(text, False)
