"""What each token id adds to a text, asked from the tokenizer's own decoder.

Most decoders work token by token: byte-level BPE, and SentencePiece vocabularies that fall back to
bytes. There each id has fixed bytes, and text is the joined bytes. For any other decoder the
detokenizer decodes a window of tokens; `bytes_of` is then what the token adds inside a text.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as HfTokenizer

BROKEN = "\ufffd"


class TokenText:
    """Texts of one vocabulary. Entries are computed when a token is first seen, then kept."""

    def __init__(self, tokenizer: HfTokenizer, special_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._steps = _steps(self._decoder)
        kinds = [str(step["type"]) for step in self._steps]
        self._bytes: dict[int, bytes] = {}
        self._texts: tuple[dict[int, str], dict[int, str]] = ({}, dict.fromkeys(special_ids, ""))
        self.byte_level = "ByteLevel" in kinds
        self.byte_fallback = "ByteFallback" in kinds
        self.is_bytewise = self._decoder is not None and self._decodes_token_by_token(kinds)
        """The text of ids is the UTF-8 decoding of their joined `bytes_of`, but for a strip."""
        last = self._steps[-1] if self._steps else {}
        self.strip_char = str(last.get("content", "")) if last.get("type") == "Strip" else ""
        self.num_stripped = int(last.get("start", 0)) if self.strip_char else 0
        """So many leading `strip_char` a whole text loses, in a bytewise vocabulary."""
        self.num_unsettled = _num_unsettled_chars(self._steps)
        """So many characters at the end of a text may still change when tokens follow; None: all
        of them may."""

    def token(self, token_id: int) -> str | None:
        """The vocabulary's entry; None for an id without one, which a padded vocabulary has."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token

    def decode(self, tokens: list[str]) -> str:
        """Text of vocabulary entries, as the `tokenizers` library decodes them."""
        if self._decoder is None or not tokens:
            return " ".join(tokens)
        text: str = self._decoder.decode(tokens)
        return text

    def plain_texts(self, *, skip_special_tokens: bool) -> dict[int, str]:
        """Cache of ids whose text is the same in every place; the detokenizer fills it."""
        return self._texts[skip_special_tokens]

    @cached_property
    def byte_ids(self) -> Mapping[int, bytes]:
        """Ids of tokens that stand for one byte, such as "<0xE2>", if the decoder knows such."""
        if not self.byte_fallback:
            return {}
        spellings = {f"<0x{byte:{form}}>": byte for byte in range(256) for form in ("02X", "02x")}
        pairs = ((self._tokenizer.token_to_id(token), byte) for token, byte in spellings.items())
        return {token_id: bytes((byte,)) for token_id, byte in pairs if token_id is not None}

    def bytes_of(self, token_id: int) -> bytes:
        """What the token adds inside a text; may be a part of a character. Empty for an id
        without a token."""
        raw = self._bytes.get(token_id)
        if raw is None:
            raw = self._bytes[token_id] = self._ask(token_id)
        return raw

    def _ask(self, token_id: int) -> bytes:
        if token_id in self.byte_ids:
            return self.byte_ids[token_id]
        token = self.token(token_id)
        if token is None:
            return b""
        text = self._inside_a_text(token)
        if BROKEN in text and self.byte_level:
            # A decoder cannot show a part of a character: its bytes are those of the alphabet.
            # An added token is no bytes but a name; the library would garble it.
            if token_id not in self._added and all(char in _ALPHABET for char in token):
                return bytes(_ALPHABET[char] for char in token)
            return token.encode()
        return text.encode()

    def _inside_a_text(self, token: str) -> str:
        """What the token adds between two others."""
        before, after = ("x", "y") if token not in ("x", "y") else ("v", "w")
        start, both = self.decode([before]), self.decode([before, after])
        end = both[len(start) :]
        text = self.decode([before, token, after])
        if both.startswith(start) and text.startswith(start) and text.endswith(end):
            return text[len(start) : len(text) - len(end)]
        return self.decode([token])

    @property
    def garbled_ids(self) -> Iterator[int]:
        """Added tokens whose name the library's byte-level decoder would take for bytes."""
        if self.byte_level:
            for token_id, token in self._added.items():
                if not token.content.isascii() and BROKEN in self.decode([token.content]):
                    yield token_id

    def _decodes_token_by_token(self, kinds: list[str]) -> bool:
        """Whether the steps leave each token its own bytes. What the steps promise is tried on
        the decoder as well."""
        rest = list(kinds)
        if rest[:1] == ["ByteLevel"]:
            del rest[:1]
            samples = [(["x", "é", "y"], "x\ufffdy"), (["Ã", "©"], "é")]
        else:
            while rest[:1] == ["Replace"]:
                del rest[:1]
            samples = [(["x", "y"], "xy")]
            if rest[:1] == ["ByteFallback"]:
                del rest[:1]
                samples.append((["x", "<0xC3>", "<0xA9>", "y"], "xéy"))
        is_one_string = rest[:1] == ["Fuse"] or kinds[:1] == ["ByteLevel"]
        while rest[:1] == ["Fuse"]:
            del rest[:1]
        if len(rest) == 1 and rest[0] == "Strip" and is_one_string and not self._steps[-1]["stop"]:
            del rest[:1]
        return not rest and all(self.decode(tokens) == text for tokens, text in samples)


def _steps(decoder: Any) -> list[dict[str, Any]]:
    """The decoder's steps in order, sequences inside sequences laid open."""
    if decoder is None:
        return []

    def opened(part: dict[str, Any]) -> list[dict[str, Any]]:
        if part["type"] != "Sequence":
            return [part]
        return [step for inner in part["decoders"] for step in opened(inner)]

    return opened(json.loads(decoder.__getstate__()))


def _num_unsettled_chars(steps: list[dict[str, Any]]) -> int | None:
    """A replacement behind a step that fuses all tokens may match text that is not there yet."""
    num_chars, is_one_string = 0, False
    for step in steps:
        if step["type"] == "Replace" and is_one_string:
            pattern: Mapping[str, str] = step["pattern"]
            if "String" not in pattern:
                return None
            num_chars += len(pattern["String"]) - 1
        is_one_string = is_one_string or step["type"] in ("Fuse", "ByteLevel")
    return num_chars


def _byte_level_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + offset): byte for offset, byte in enumerate(others)}


_ALPHABET: Mapping[str, int] = _byte_level_alphabet()
