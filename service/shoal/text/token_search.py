"""Which tokens of a vocabulary have a text: exactly, or somewhere in it."""

from collections.abc import Mapping, Sequence

_MAX_KEPT = 256
"""Answers that are kept; most requests ask for the same few texts."""


class TokenSearch:
    """Over the bytes of every token. Building it asks the tokenizer for each."""

    def __init__(self, token_bytes: Sequence[bytes], byte_ids: Mapping[int, bytes]) -> None:
        """`byte_ids`: tokens that stand for one byte where no other token does."""
        self._bytes = token_bytes
        self._ids: dict[bytes, int] = {}
        for token_id, text in enumerate(token_bytes):
            if token_id not in byte_ids:
                self._ids.setdefault(text, token_id)
        for token_id in byte_ids:
            self._ids.setdefault(token_bytes[token_id], token_id)
        self._kept: dict[str, tuple[int, ...]] = {}

    def id_of(self, text: str) -> int | None:
        """The token that adds exactly this text; of several the lowest id."""
        return self._ids.get(text.encode())

    def ids_with(self, text: str) -> tuple[int, ...]:
        """Tokens whose text has this one in it."""
        found = self._kept.get(text)
        if found is None:
            part = text.encode()
            found = tuple(i for i, token in enumerate(self._bytes) if part in token)
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[text] = found
        return found
