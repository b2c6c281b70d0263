"""Token ids to text, one token at a time, holding back half characters.

The joined pieces equal the `tokenizers` library's decoding of all ids at once, with one exception
that streaming needs: in vocabularies with byte tokens the library turns a whole run of them into
U+FFFD when one byte of the run is wrong, also the characters before it. Those were shown already,
and stay.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from shoal.checkpoint.token_text import BROKEN, TokenText

_Utf8Decoder = getincrementaldecoder("utf-8")
_MAX_WINDOW, _KEPT_WINDOW = 16, 6
"""Tokens."""


class Detokenizer(Protocol):
    """The text of one sequence's output so far."""

    def push(self, token_id: int) -> str:
        """The characters completed by this token; may be empty."""
        ...

    def finish(self) -> str:
        """What was held back: U+FFFD for a character that never became whole."""
        ...


def make_detokenizer(
    text: TokenText, prompt_token_ids: Sequence[int], hidden_ids: frozenset[int]
) -> Detokenizer:
    """Continues the text of the prompt. `hidden_ids` (none, or the special tokens) add nothing."""
    if text.is_bytewise:
        return _BytewiseDetokenizer(text, prompt_token_ids, hidden_ids)
    return _WindowDetokenizer(text, prompt_token_ids, hidden_ids)


class _BytewiseDetokenizer:
    """For vocabularies whose tokens have fixed bytes: most tokens are one look-up."""

    __slots__ = ("_hidden", "_is_plain", "_joiner", "_num_stripped", "_text", "_texts")

    def __init__(
        self, text: TokenText, prompt_token_ids: Sequence[int], hidden_ids: frozenset[int]
    ) -> None:
        self._text = text
        self._texts = text.plain_texts(skip_special_tokens=bool(hidden_ids))
        self._hidden = hidden_ids
        self._joiner = _Utf8Joiner() if text.byte_level else _ByteRunJoiner(text)
        self._num_stripped = text.num_stripped
        for token_id in prompt_token_ids:
            if not self._num_stripped:
                break
            if token_id not in hidden_ids:
                self._strip(text.bytes_of(token_id).decode(errors="replace"))
        self._is_plain = not self._num_stripped
        """Nothing is held back, and nothing is left to strip."""

    def push(self, token_id: int) -> str:
        if self._is_plain:
            plain = self._texts.get(token_id)
            if plain is not None:
                return plain
        return self._push_rare(token_id)

    def finish(self) -> str:
        return self._joiner.finish()

    def _push_rare(self, token_id: int) -> str:
        """A token not seen before, a part of a character, or one that meets such a part."""
        if token_id in self._hidden:
            return ""
        raw = self._text.bytes_of(token_id)
        if token_id not in self._texts and (whole := _whole_text(raw)) is not None:
            self._texts[token_id] = whole
        text = self._joiner.push(token_id, raw)
        if self._num_stripped:
            text = self._strip(text)
        self._is_plain = not self._num_stripped and not self._joiner.is_holding
        return text

    def _strip(self, text: str) -> str:
        """Drops what a whole text loses at its beginning."""
        while self._num_stripped and text.startswith(self._text.strip_char):
            text = text[1:]
            self._num_stripped -= 1
        if text:
            self._num_stripped = 0
        return text


class _Utf8Joiner:
    """Bytes of byte-level tokens: any token may end in the middle of a character."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = _Utf8Decoder(errors="replace")

    @property
    def is_holding(self) -> bool:
        """Whether the next token may not be read by itself."""
        return bool(self._decoder.getstate()[0])

    def push(self, token_id: int, raw: bytes) -> str:
        return self._decoder.decode(raw)

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class _ByteRunJoiner:
    """Byte tokens between whole ones. Of a run with a wrong byte each byte is one U+FFFD."""

    __slots__ = ("_byte_ids", "_held", "_is_broken")

    def __init__(self, text: TokenText) -> None:
        self._byte_ids = text.byte_ids
        self._held = b""
        self._is_broken = False
        """The run has had a wrong byte: so are all until its end."""

    @property
    def is_holding(self) -> bool:
        return bool(self._held) or self._is_broken

    def push(self, token_id: int, raw: bytes) -> str:
        if token_id not in self._byte_ids:
            text = self.finish() + raw.decode()
            self._is_broken = False
            return text
        if self._is_broken:
            return BROKEN
        self._held += raw
        try:
            text = self._held.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return ""
            self._is_broken = True
            return self.finish()
        self._held = b""
        return text

    def finish(self) -> str:
        text, self._held = BROKEN * len(self._held), b""
        return text


class _WindowDetokenizer:
    """For every other decoder: the library decodes the last tokens together with each new one;
    what their text has gained is new."""

    __slots__ = ("_hidden", "_shown", "_text", "_tokens")

    def __init__(
        self, text: TokenText, prompt_token_ids: Sequence[int], hidden_ids: frozenset[int]
    ) -> None:
        self._text = text
        self._hidden = hidden_ids
        visible = (i for i in reversed(prompt_token_ids) if i not in hidden_ids)
        tokens = [text.token(i) for i in islice(visible, _KEPT_WINDOW)]
        self._tokens = [token for token in reversed(tokens) if token is not None]
        self._shown = len(text.decode(self._tokens))
        """Characters of the window's text that were given out."""

    def push(self, token_id: int) -> str:
        token = self._text.token(token_id)
        if token is None or token_id in self._hidden:
            return ""
        self._tokens.append(token)
        num_unsettled = self._text.num_unsettled
        if num_unsettled is None or token_id in self._text.byte_ids:
            return ""  # a run of bytes has its text when it is whole
        text = self._text.decode(self._tokens)
        # A byte-level token may end in the middle of a character.
        num_held = max(num_unsettled, self._text.byte_level and text.endswith(BROKEN))
        piece = self._give(text, len(text) - num_held)
        if len(self._tokens) >= _MAX_WINDOW and not num_unsettled:
            self._shorten(text)
        return piece

    def finish(self) -> str:
        text = self._text.decode(self._tokens)
        return self._give(text, len(text))

    def _give(self, text: str, end: int) -> str:
        start, self._shown = self._shown, max(self._shown, end)
        return text[start : self._shown]

    def _shorten(self, text: str) -> None:
        """Forgets the first tokens, if the others have text and what is held back is theirs."""
        kept = self._tokens[-_KEPT_WINDOW:]
        kept_text, held = self._text.decode(kept), text[self._shown :]
        if len(kept_text) > len(held) and kept_text.endswith(held):
            self._tokens, self._shown = kept, len(kept_text) - len(held)


class CleanUpDetokenizer:
    """Drops spaces before punctuation and English contractions, as `transformers` does when
    clean_up_tokenization_spaces is set (vocabularies other than BPE only)."""

    __slots__ = ("_detokenizer", "_held")

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._held = ""

    def push(self, token_id: int) -> str:
        text = self._held + self._detokenizer.push(token_id)
        # From the first space on that only letters of the patterns follow, a pattern may match.
        tail = text[len(text.rstrip(_CLEAN_UP_LETTERS)) :]
        settled = len(text) - len(tail) + tail.find(" ") if " " in tail else len(text)
        self._held = text[settled:]
        return clean_up(text[:settled])

    def finish(self) -> str:
        text, self._held = self._held + self._detokenizer.finish(), ""
        return clean_up(text)


_CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
_CLEAN_UP_LETTERS = "".join({char for pattern, _ in _CLEAN_UP for char in pattern})


def clean_up(text: str) -> str:
    """One replacement after the other, in the order of `transformers`."""
    for pattern, replacement in _CLEAN_UP:
        text = text.replace(pattern, replacement)
    return text


def _whole_text(raw: bytes) -> str | None:
    """None for bytes that are part of a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
