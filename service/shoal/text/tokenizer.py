"""Strings to token ids and back, for one model folder.

Every token id has a fixed byte string (`token_bytes`), so text is the UTF-8 decoding of joined
bytes: exact for byte-level BPE and for byte-fallback (SentencePiece-like) vocabularies.
"""

import json
import re
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import __version__ as TOKENIZERS_VERSION

from shoal.checkpoint.files import TokenizerFiles
from shoal.errors import ModelFolderError

CONTENT_MARK = "\ufdd0"
"""Unicode noncharacter put inside special-token spellings that come from users."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """The tokenizer of one model. Thread-safe: nothing changes after construction."""

    def __init__(self, files: TokenizerFiles) -> None:
        """Raises ModelFolderError for a definition that the `tokenizers` library cannot read."""
        definition = files.definition
        try:
            self._tokenizer = HfTokenizer.from_str(definition)
        except Exception as error:  # the library raises plain Exception for whatever it is
            raise ModelFolderError(
                f"{files.where} is not valid for tokenizers {TOKENIZERS_VERSION} "
                f"({str(error)[:100]}): upgrade that package if the file is newer, or save the "
                "tokenizer again with transformers, "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            ) from error
        self._definition = definition
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        parsed = json.loads(definition)
        self.special_ids = frozenset(
            int(token["id"]) for token in parsed.get("added_tokens", ()) if token["special"]
        )
        self._specials = {
            str(token["content"]): int(token["id"])
            for token in parsed.get("added_tokens", ())
            if token["special"]
        }
        self._byte_level = "ByteLevel" in _types_in(parsed.get("decoder"))
        self.strips_leading_space = "Strip" in _types_in(parsed.get("decoder"))
        """Whole texts start without the space that the vocabulary puts before words."""

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included (the highest id + 1)."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id; special tokens spell their own name."""
        table = [b""] * self.vocab_size
        unbyte = _byte_level_alphabet()
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token in self._specials:
                table[token_id] = token.encode()
            elif self._byte_level and all(char in unbyte for char in token):
                table[token_id] = bytes(unbyte[char] for char in token)
            elif match := _BYTE_TOKEN.fullmatch(token):
                table[token_id] = bytes((int(match[1], 16),))
            else:
                table[token_id] = token.replace("\u2581", " ").encode()
        return table

    def bytes_of(self, token_id: int) -> bytes:
        """Also of ids without a token, which a padded vocabulary has: they are no text."""
        return self.token_bytes[token_id] if token_id < self.vocab_size else b""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a raw prompt; spelled special tokens count as control tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered chat: special tokens are control tokens, except where
        `mark_content` broke their spelling."""
        ids: list[int] = []
        for piece in self._special_pattern.split(text):
            if piece in self._specials:
                ids.append(self._specials[piece])
            elif piece:
                plain = piece.replace(CONTENT_MARK, "")
                ids += self._plain_tokenizer.encode(plain, add_special_tokens=False).ids
        return ids

    def mark_content(self, text: str) -> str:
        """User text in which `encode_rendered` finds no special token, whatever text a template
        puts around it."""
        text = text.replace(CONTENT_MARK, "\ufffd")
        # Again and again, since a special token may lie inside another or overlap it.
        while self._special_pattern.search(text):
            text = self._special_pattern.sub(lambda m: m[0][0] + CONTENT_MARK + m[0][1:], text)
        before, after = self._open_ends(text)
        return CONTENT_MARK * before + text + CONTENT_MARK * after

    def _open_ends(self, text: str) -> tuple[bool, bool]:
        """Could the beginning of the text end a special token, its end (or all of it) lie
        inside one?"""
        beginnings, endings, all_names = self._special_parts
        longest = max(map(len, self._specials), default=1) - 1
        lengths = range(1, min(longest, len(text)) + 1)
        before = any(text[:length] in endings for length in lengths)
        after = any(text[-length:] in beginnings for length in lengths)
        return before, after or (bool(text) and text in all_names)

    @cached_property
    def _special_parts(self) -> tuple[frozenset[str], frozenset[str], str]:
        """Beginnings and endings of the special tokens' names, and all names in one string."""
        cuts = [(name, at) for name in self._specials for at in range(1, len(name))]
        return (
            frozenset(name[:at] for name, at in cuts),
            frozenset(name[at:] for name, at in cuts),
            CONTENT_MARK.join(self._specials),
        )

    def special_id(self, token: str | None) -> int | None:
        """Id of an added token by its spelling."""
        if token is None:
            return None
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids; incomplete UTF-8 becomes U+FFFD."""
        skipped = self.special_ids if skip_special_tokens else ()
        raw = b"".join(self.bytes_of(i) for i in token_ids if i not in skipped)
        text = raw.decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.strips_leading_space else text

    def token_name(self, token_id: int) -> str:
        """How a log-prob entry shows a token: its text, or `bytes:\\xe2...` when the token is
        not whole UTF-8 characters."""
        raw = self.bytes_of(token_id)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._specials, key=len, reverse=True)
        return re.compile(
            "(" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else r"(?!)()"
        )

    @cached_property
    def _plain_tokenizer(self) -> HfTokenizer:
        """The same tokenizer, blind to special tokens."""
        tokenizer = HfTokenizer.from_str(self._definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        return tokenizer


def _types_in(part: dict[str, Any] | None) -> set[str]:
    """Names of a decoder and, for a sequence, of its parts."""
    if not part:
        return set()
    return {str(part["type"])}.union(*(_types_in(inner) for inner in part.get("decoders", ())))


def _byte_level_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + offset): byte for offset, byte in enumerate(others)}
