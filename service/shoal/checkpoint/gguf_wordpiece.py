"""WordPiece of GGUF (`tokenizer.ggml.model` bert). In the file the beginning of a word is marked,
in a tokenizer.json what continues one."""

from typing import Any

from shoal.checkpoint.gguf_sentencepiece import SPACE
from shoal.checkpoint.gguf_vocab import GgufVocab, TokenType, template

_CONTINUES = "##"


def wordpiece(vocab: GgufVocab) -> dict[str, Any]:
    """tokenizer.json but for its added tokens."""
    lowercase = vocab.flag("normalizer.lowercase", True)
    unknown = vocab.token_id("unknown_token_id")
    if unknown is None or unknown >= len(vocab.tokens):
        raise vocab.bad("unknown_token_id", "must be a token id")
    first = "cls_token_id" if vocab.token_id("cls_token_id") is not None else "bos_token_id"
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": vocab.flag("normalizer.strip_accents", lowercase),
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(
            vocab,
            first if vocab.flag("add_bos_token", True) else None,
            "seperator_token_id" if vocab.flag("add_sep_token", True) else None,
        ),
        "decoder": {"type": "WordPiece", "prefix": _CONTINUES, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": vocab.tokens[unknown],
            "continuing_subword_prefix": _CONTINUES,
            "max_input_chars_per_word": 100,
            "vocab": {
                _spelled(token, vocab.types[index]): index
                for index, token in enumerate(vocab.tokens)
            },
        },
    }


def _spelled(token: str, kind: int) -> str:
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER):
        return token
    return token[1:] if token.startswith(SPACE) else _CONTINUES + token
