"""The tokenizer, the chat templates and the end ids of a GGUF file's metadata.

The `tokenizers` library reads a tokenizer.json; here the same object is put together from its
tokens, merges or scores. The kinds: byte-level BPE (`gguf_byte_level.py`), SentencePiece
(`gguf_sentencepiece.py`) and WordPiece (`gguf_wordpiece.py`).
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from shoal.checkpoint.files import TokenizerFiles
from shoal.checkpoint.gguf_byte_level import byte_level
from shoal.checkpoint.gguf_header import GgufHeader
from shoal.checkpoint.gguf_sentencepiece import sentencepiece
from shoal.checkpoint.gguf_vocab import GgufVocab, TokenType
from shoal.checkpoint.gguf_wordpiece import wordpiece
from shoal.errors import ModelFolderError

_KINDS: Mapping[str, Callable[[GgufVocab], dict[str, Any]]] = {
    "gpt2": byte_level,
    "llama": sentencepiece,
    "bert": wordpiece,
}
"""`tokenizer.ggml.model` -> tokenizer.json but for its added tokens."""
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the format spells it so
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
_END_NAMES = frozenset({
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>",
    "<|endoftext|>", "<|end_of_text|>", "<|END_OF_TURN_TOKEN|>", "<EOT>", "<end_of_utterance>",
})  # fmt: skip
"""Tokens that end an answer whatever the metadata says: it has room for one end token, and many
models have several. llama.cpp does the same."""


class GgufTokenizer:
    """Read when first asked for. Raises ModelFolderError that names file and key."""

    def __init__(self, header: GgufHeader) -> None:
        self._file = header.file
        self._metadata = header.metadata
        self._vocab = GgufVocab(header)

    @cached_property
    def files(self) -> TokenizerFiles:
        vocab = self._vocab
        kind = vocab.text("model") or "none"
        if kind not in _KINDS:
            raise ModelFolderError(
                f"{self._file}: tokenizer.ggml.model is {kind[:40]!r}, which Shoal cannot "
                f"read; it reads {', '.join(_KINDS)}"
            )

        def definition() -> Mapping[str, Any]:
            return {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": _added_tokens(vocab, is_sentencepiece=kind == "llama"),
                **_KINDS[kind](vocab),
            }

        return TokenizerFiles(definition, self._settings, self._file, len(vocab.tokens))

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """End ids (of an answer, a message, a turn), the start id, tokens never to sample."""
        vocab = self._vocab
        said = [vocab.token_id(key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
        named = [
            index
            for index, token in enumerate(vocab.tokens)
            if token in _END_NAMES and vocab.types[index] in (TokenType.CONTROL, TokenType.USER)
        ]
        config: dict[str, Any] = {
            "eos_token_id": list(dict.fromkeys(i for i in (*said, *named) if i is not None)),
            "bos_token_id": vocab.token_id("bos_token_id"),
        }
        if suppressed := vocab.whole_numbers("suppress_tokens"):
            config["suppress_tokens"] = suppressed
        return config

    @property
    def chat_templates(self) -> Mapping[str, str]:
        names = {"tokenizer.chat_template": "default"}
        for name in self._vocab.texts("tokenizer.chat_templates") or ():
            names[f"tokenizer.chat_template.{name}"] = name
        found = {name: self._metadata.get(key) for key, name in names.items()}
        for name, template in found.items():
            if template is not None and not isinstance(template, str):
                raise ModelFolderError(f"{self._file}: chat template {name!r} is no text")
        return {name: template for name, template in found.items() if template is not None}

    @property
    def _settings(self) -> Mapping[str, Any]:
        vocab = self._vocab
        ids = {name: vocab.token_id(key) for name, key in _NAMED.items()}
        return {
            name: vocab.tokens[index]
            for name, index in ids.items()
            if index is not None and index < len(vocab.tokens)
        }


def _added_tokens(vocab: GgufVocab, *, is_sentencepiece: bool) -> list[dict[str, Any]]:
    """Tokens that are found in a text before the vocabulary is used. That some of them take the
    spaces behind them is no part of the format; of Phi-3 it is known."""
    kinds: dict[int, bool] = {
        TokenType.CONTROL: True,
        TokenType.USER: False,
        TokenType.UNKNOWN: True,
    }
    takes_spaces = is_sentencepiece and vocab.architecture == "phi3"
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": takes_spaces and token not in ("<unk>", "<s>", "<|endoftext|>"),
            "normalized": False,
            "special": kinds[vocab.types[index]],
        }
        for index, token in enumerate(vocab.tokens)
        if vocab.types[index] in kinds
    ]
