"""The tokens of a model by their text."""

from collections.abc import Callable, Sequence

QUOTE = b'"'
STEM = 4
"""Bytes of a token by which longer ones are known."""


class TokenTable:
    """The tokens of a model by the text that they add to a string."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        special_ids: Sequence[int],
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        """See `Vocabulary`. Special tokens stand for no text."""
        self.token_bytes = token_bytes
        self.encode = encode
        self.ids: dict[bytes, tuple[int, ...]] = {}
        """[text] tokens"""
        self.longest: dict[bytes, int] = {}
        """[first `STEM` bytes] bytes of the longest token that begins so"""
        without_text = frozenset(special_ids)
        for token_id, text in enumerate(token_bytes):
            if text and token_id not in without_text:
                self.ids[text] = (*self.ids.get(text, ()), token_id)
                if len(text) >= STEM:
                    self.longest[text[:STEM]] = max(self.reach(text), len(text))
        self.most_bytes = max(map(len, self.ids), default=0)
        """Of a token."""
        self.quoted = {
            token_id: text
            for text, token_ids in self.ids.items()
            if QUOTE in text and text != QUOTE
            for token_id in token_ids
        }
        """[token] text of those with a quote and more: they may end or begin a copy"""
        self.closing = {
            text[: end + 1]
            for text in self.quoted.values()
            for end in range(1, len(text))
            if text[end] == QUOTE[0]
        }
        """Their beginnings up to a quote."""
        self._spelled: dict[bytes, list[int]] = {}

    def text_of(self, token_id: int) -> bytes:
        """Empty for one that stands for no text."""
        text = self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""
        return text if token_id in self.ids.get(text, ()) else b""

    def reach(self, text: bytes) -> int:
        """No token that the text begins with has more bytes."""
        return self.longest.get(text[:STEM], STEM - 1)

    def beginnings(self, text: bytes) -> list[int]:
        """Tokens that the text begins with."""
        sizes = range(1, min(len(text), self.reach(text)) + 1)
        return [token_id for size in sizes for token_id in self.ids.get(text[:size], ())]

    def spell(self, text: bytes) -> list[int]:
        """Tokens of a part of a token, the longest first; none where there are none."""
        if (spelled := self._spelled.get(text)) is None:
            spelled, at = [], 0
            while at < len(text):
                ends = range(len(text), at, -1)
                end = next((end for end in ends if text[at:end] in self.ids), 0)
                if not end:
                    spelled = []
                    break
                spelled.append(self.ids[text[at:end]][0])
                at = end
            self._spelled[text] = spelled
        return spelled
