"""Token ids to text, one token at a time, holding back half characters.

The joined pieces equal the decoding of all ids at once, whatever the order of arrival.
"""

from codecs import getincrementaldecoder

from shoal.text.tokenizer import Tokenizer

_Utf8Decoder = getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one sequence's output so far."""

    __slots__ = ("_bytes_of", "_decode", "_skipped", "_strip_next")

    def __init__(
        self, tokenizer: Tokenizer, *, at_text_start: bool, skip_special_tokens: bool = True
    ) -> None:
        """`at_text_start`: no visible text precedes, so a leading space may be dropped."""
        self._bytes_of = tokenizer.bytes_of
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decode = _Utf8Decoder(errors="replace").decode
        self._strip_next = at_text_start and tokenizer.strips_leading_space

    def push(self, token_id: int) -> str:
        """The characters completed by this token; may be empty."""
        if token_id in self._skipped:
            return ""
        text = self._decode(self._bytes_of(token_id))
        if self._strip_next and text:
            self._strip_next = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What was held back: U+FFFD for a character that never became whole."""
        return self._decode(b"", True)
