"""SentencePiece BPE of GGUF (`tokenizer.ggml.model` llama) as BPE with merges.

SentencePiece joins, again and again, the neighbours whose joined piece has the best score. BPE with
an ordered list of merges does the same when every way to cut a piece into two pieces is a merge, in
order of the piece's score (as `transformers` converts such models). What no piece covers becomes
byte tokens.
"""

from typing import Any

from shoal.checkpoint.gguf_vocab import GgufVocab, TokenType, with_ends

SPACE = "\u2581"
"""A space inside of a piece."""


def sentencepiece(vocab: GgufVocab) -> dict[str, Any]:
    """tokenizer.json but for its added tokens."""
    if vocab.flag("remove_extra_whitespaces", False):
        raise vocab.bad("remove_extra_whitespaces", "must be false: Shoal does not remove them")
    prefix = vocab.flag("add_space_prefix", True)
    types = vocab.types[: len(vocab.tokens)]
    unknown = next((t for t, k in zip(vocab.tokens, types, strict=True) if k == 2), None)
    replace: dict[str, Any] = {
        "type": "Replace",
        "pattern": {"String": " "},
        "content": SPACE,
    }
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": with_ends(vocab, bos=True, eos=False),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": TokenType.BYTE in types,
            "ignore_merges": False,
            "vocab": vocab.vocab,
            "merges": _merges(vocab),
        },
    }


def _merges(vocab: GgufVocab) -> list[tuple[str, str]]:
    """Best first. Of the cuts of one piece the one with the longer left part comes first: BPE
    works from left to right."""
    scores = vocab.scores
    pieces = {
        token: index
        for token, index in vocab.vocab.items()
        if vocab.types[index] == TokenType.NORMAL
    }
    if len(pieces) > 1 and len({scores[index] for index in pieces.values()}) == 1:
        raise vocab.bad("scores", "are all the same, so the order of merges is unknown: use the "
                        "model's Hugging Face folder")  # fmt: skip
    found = [
        (scores[index], len(token[:at]), len(token) - at, token[:at], token[at:])
        for token, index in pieces.items()
        for at in range(1, len(token))
        if token[:at] in pieces and token[at:] in pieces
    ]
    found.sort(key=lambda entry: entry[:3], reverse=True)
    return [(left, right) for *_, left, right in found]
