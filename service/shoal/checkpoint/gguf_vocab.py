"""`tokenizer.*` of a GGUF file's metadata, checked."""

from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np

from shoal.checkpoint.gguf_header import GgufHeader
from shoal.errors import ModelFolderError

_PREFIX = "tokenizer.ggml."
_NO_ID = 0xFFFFFFFF
"""-1, where a model has no such token."""


class TokenType(IntEnum):
    """What a token is, as SentencePiece has it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


class GgufVocab:
    """Reads when asked. Every method raises ModelFolderError that names file and key. Keys are
    without `tokenizer.ggml.`, if they have no other prefix."""

    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        self._tensors = header.tensors
        self._file = header.file
        self.architecture = header.metadata.get("general.architecture")

    @cached_property
    def tokens(self) -> Sequence[str]:
        """By id, without the unused ones at the end, which pad an embedding."""
        tokens = self._all_tokens
        num_used = len(tokens)
        while num_used and self._all_types[num_used - 1] == TokenType.UNUSED:
            num_used -= 1
        tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens[:num_used])]
        if len(set(tokens)) != len(tokens):
            twice = next(token for token in tokens if tokens.count(token) > 1)
            raise self.bad("tokens", f"has {twice[:40]!r} twice")
        return tokens

    @property
    def types(self) -> Sequence[int]:
        """By id."""
        return self._all_types

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id."""
        return {token: index for index, token in enumerate(self.tokens)}

    @cached_property
    def scores(self) -> Sequence[float]:
        """By id."""
        values = self._numbers("scores", len(self._all_tokens), "fiu")
        if values is None or not np.isfinite(values).all():
            raise self.bad("scores", "must be one finite number per token")
        return [float(value) for value in values]

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs, best first."""
        merges = self.texts(f"{_PREFIX}merges")
        if merges is None:
            raise self.bad("merges", "is missing")
        vocab = self.vocab
        pairs = []
        for merge in merges:
            at = merge.find(" ", 1)  # a token may be a space
            left, right = merge[:at], merge[at + 1 :]
            if at < 0 or left not in vocab or right not in vocab or left + right not in vocab:
                raise self.bad("merges", f"has {merge[:40]!r}, which is not of its tokens")
            pairs.append((left, right))
        return pairs

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._metadata.get(_PREFIX + key, default)
        if value is not None and not isinstance(value, str):
            raise self.bad(key, "must be a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(_PREFIX + key, default)
        if not isinstance(value, bool):
            raise self.bad(key, "must be true or false")
        return value

    def token_id(self, key: str) -> int | None:
        """None where there is none. It may be beyond the tokens: whoever uses it says so."""
        value = self._metadata.get(_PREFIX + key)
        if value is None or (isinstance(value, int) and value in (_NO_ID, -1)):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.bad(key, "must be a token id")
        return value

    def texts(self, full_key: str) -> list[str] | None:
        """None where the key is absent."""
        values = self._metadata.get(full_key)
        if values is not None and not isinstance(values, list):
            raise self.bad(full_key.removeprefix(_PREFIX), "must be a list of texts")
        return values

    def whole_numbers(self, key: str) -> list[int]:
        """Empty where the key is absent."""
        values = self._numbers(key, None, "iu")
        return [] if values is None else [int(value) for value in values]

    def bad(self, key: str, problem: str) -> ModelFolderError:
        full_key = key if key.startswith("tokenizer.") else _PREFIX + key
        return ModelFolderError(f"{self._file}: {full_key} {problem}")

    @cached_property
    def _all_tokens(self) -> list[str]:
        tokens = self.texts(f"{_PREFIX}tokens")
        if not tokens:
            raise self.bad("tokens", "is missing: the file has no tokenizer")
        return tokens

    @cached_property
    def _all_types(self) -> list[int]:
        num_tokens = len(self._all_tokens)
        values = self._numbers("token_type", num_tokens, "iu")
        if values is None:
            return [TokenType.NORMAL] * num_tokens
        if not np.isin(values, list(TokenType)).all():
            raise self.bad("token_type", "has a number that is no kind of token")
        return [int(value) for value in values]

    def _numbers(self, key: str, count: int | None, kinds: str) -> Any:
        values = self._metadata.get(_PREFIX + key)
        if values is None:
            return None
        is_list = isinstance(values, np.ndarray) and values.dtype.kind in kinds
        if not is_list or (count is not None and len(values) != count):
            raise self.bad(key, "must be a list of numbers, one per token")
        return values


def with_ends(vocab: GgufVocab, *, bos: bool, eos: bool) -> dict[str, Any] | None:
    """The post-processor that puts start and end tokens around a text; None for neither.
    `bos`, `eos`: whether it does so where the file does not say."""
    return template(
        vocab,
        "bos_token_id" if vocab.flag("add_bos_token", bos) else None,
        "eos_token_id" if vocab.flag("add_eos_token", eos) else None,
    )


def template(vocab: GgufVocab, first: str | None, last: str | None) -> dict[str, Any] | None:
    """The same with the tokens of these keys."""
    ids = {key: vocab.token_id(key) for key in (first, last) if key is not None}
    for key, index in ids.items():
        if index is None or index >= len(vocab.tokens):
            raise vocab.bad(key, "must be a token id, for a text begins or ends with it")
    if not ids:
        return None
    names = {key: vocab.tokens[index] for key, index in ids.items() if index is not None}
    special = {
        name: {"id": name, "ids": [vocab.vocab[name]], "tokens": [name]} for name in names.values()
    }

    def around(*sequences: dict[str, Any]) -> list[dict[str, Any]]:
        start = [{"SpecialToken": {"id": names[first], "type_id": 0}}] if first else []
        end = [{"SpecialToken": {"id": names[last], "type_id": 0}}] if last else []
        return [*start, *sequences, *end]

    one, two = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": around(one),
        "pair": around(one, two),
        "special_tokens": special,
    }
