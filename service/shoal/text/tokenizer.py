"""Strings to token ids and back, for one model: the `tokenizers` library with the settings that
`transformers` keeps beside a tokenizer, applied as it applies them.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

from tokenizers import AddedToken, Encoding

from shoal.checkpoint.files import TokenizerFiles
from shoal.checkpoint.token_text import TokenText
from shoal.checkpoint.tokenizer_library import open_library
from shoal.text.detokenizer import CleanUpDetokenizer, Detokenizer, clean_up, make_detokenizer
from shoal.text.token_search import TokenSearch

_LONG_TEXT = 4096
"""Characters, or tokens."""


class Tokenizer:
    """The tokenizer of one model. Thread-safe: after construction only caches change."""

    def __init__(self, files: TokenizerFiles) -> None:
        """Raises ModelFolderError when the definition is not one of the `tokenizers` library."""
        opened = open_library(files)
        self.library = opened.library
        self.special_tokens = opened.special_tokens
        """Named special tokens of the settings: "bos_token" to its text, and so on."""
        self.additional_special_tokens = opened.additional_special_tokens
        self.added_tokens: Mapping[int, AddedToken] = self.library.get_added_tokens_decoder()
        """By id: tokens that are found in a text before the model's vocabulary is used."""
        self.special_ids = opened.special_ids
        self._text = TokenText(self.library, self.special_ids)
        self._garbled_ids = frozenset(self._text.garbled_ids)
        is_bpe = type(self.library.model).__name__ == "BPE"
        self._cleans_up = not is_bpe and files.settings.get("clean_up_tokenization_spaces") is True

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included (the highest id + 1)."""
        return max(self.library.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def search(self) -> TokenSearch:
        """Which tokens have a text. Slow at first: not on the event loop."""
        token_bytes = [self.bytes_of(token_id) for token_id in range(self.vocab_size)]
        return TokenSearch(token_bytes, self._text.byte_ids)

    @cached_property
    def added_ids(self) -> dict[str, int]:
        """Id of each added token, by its text."""
        return {token.content: token_id for token_id, token in self.added_tokens.items()}

    @cached_property
    def special_names(self) -> dict[int, str]:
        """What each special token adds to a text when it is shown."""
        return {i: self._text.bytes_of(i).decode(errors="replace") for i in self.special_ids}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a raw prompt; spelled special tokens count as control tokens."""
        ids: list[int] = self._encoding(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_start(
        self, text: str, num_tokens: int, *, add_special_tokens: bool = True
    ) -> tuple[list[int], int]:
        """The first tokens of a text and all special tokens that go with it, `num_tokens` in all;
        how many were left out. Raises ValueError for fewer than the special ones and one more."""
        num_special = self.library.num_special_tokens_to_add(False) if add_special_tokens else 0
        if num_tokens <= num_special:
            raise ValueError(f"{num_special} special tokens leave no room for a text")
        found = self._encoding(text, add_special_tokens=False)
        num_found = len(found.ids)
        found.truncate(num_tokens - num_special)
        num_left_out = num_found - len(found.ids)
        ids: list[int] = self.library.post_process(found, None, add_special_tokens).ids
        return ids, num_left_out

    def _encoding(self, text: str, *, add_special_tokens: bool) -> Encoding:
        if len(text) < _LONG_TEXT:
            return self.library.encode(text, add_special_tokens=add_special_tokens)
        # Releases the GIL, and starts threads: worth it for a long text.
        return self.library.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids; incomplete UTF-8 becomes U+FFFD. As `transformers` decodes: spaces are
        cleaned up only where the settings say so and the vocabulary is not BPE."""
        if not self._garbled_ids.isdisjoint(token_ids):
            detokenizer = self.detokenizer((), skip_special_tokens=skip_special_tokens)
            return "".join(map(detokenizer.push, token_ids)) + detokenizer.finish()
        text: str
        if len(token_ids) < _LONG_TEXT:
            text = self.library.decode(token_ids, skip_special_tokens=skip_special_tokens)
        else:  # releases the GIL
            skip = skip_special_tokens
            [text] = self.library.decode_batch([token_ids], skip_special_tokens=skip)
        return clean_up(text) if self._cleans_up else text

    def detokenizer(
        self, prompt_token_ids: Sequence[int], *, skip_special_tokens: bool = True
    ) -> Detokenizer:
        """Decodes what follows the prompt, token by token."""
        hidden_ids = self.special_ids if skip_special_tokens else frozenset[int]()
        detokenizer = make_detokenizer(self._text, prompt_token_ids, hidden_ids)
        return CleanUpDetokenizer(detokenizer) if self._cleans_up else detokenizer

    def bytes_of(self, token_id: int) -> bytes:
        """What a token adds inside a text; may be part of a character. Special tokens spell their
        own name. Empty for an id without a token, which a padded vocabulary has."""
        return self._text.bytes_of(token_id)

    def token_name(self, token_id: int) -> str:
        """How a log-prob entry shows a token: its text, or `bytes:\\xe2...` when the token is
        not whole UTF-8 characters."""
        raw = self.bytes_of(token_id)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def special_id(self, token: str | None) -> int | None:
        """Id of a token by its spelling."""
        if token is None:
            return None
        token_id: int | None = self.library.token_to_id(token)
        return token_id

    def model_ids(self, word: str) -> list[int]:
        """What the model's own vocabulary makes of a word, added tokens left aside."""
        try:
            return [token.id for token in self.library.model.tokenize(word)]
        except Exception:  # the library raises plain Exception for a word it has no token for
            return []
