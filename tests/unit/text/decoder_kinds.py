"""Vocabularies with every kind of decoder that the `tokenizers` library has."""

from tokenizers import Regex, decoders, models
from tokenizers import Tokenizer as HfTokenizer

_SPACES = decoders.Replace("\u2581", " ")

BYTEWISE = {
    "byte level": decoders.ByteLevel(),
    "byte level, fused": decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]),
    "byte level, stripped": decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 2, 0)]),
    "sentencepiece": decoders.Sequence(
        [_SPACES, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "sentencepiece, two stripped": decoders.Sequence(
        [_SPACES, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 2, 0)]
    ),
    "sentencepiece, not stripped": decoders.Sequence(
        [_SPACES, decoders.ByteFallback(), decoders.Fuse()]
    ),
    "sentencepiece without bytes": decoders.Sequence(
        [_SPACES, decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "runs of spaces": decoders.Sequence([decoders.Replace(Regex("\u2581+"), " "), decoders.Fuse()]),
    "byte fallback": decoders.ByteFallback(),
    "fuse": decoders.Fuse(),
    "nested": decoders.Sequence([decoders.Sequence([_SPACES]), decoders.Fuse()]),
}
"""Every token has fixed bytes: one look-up each."""
OTHERS = {
    "none": None,
    "metaspace": decoders.Metaspace(),
    "metaspace, first": decoders.Metaspace(prepend_scheme="first"),
    "metaspace, never": decoders.Metaspace(prepend_scheme="never"),
    "metaspace behind bytes": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "wordpiece": decoders.WordPiece(),
    "wordpiece, spaces kept": decoders.WordPiece(cleanup=False),
    "end of word": decoders.BPEDecoder(),
    "ctc": decoders.CTC(pad_token="<pad>", word_delimiter_token="|"),
    "each token stripped": decoders.Sequence(
        [_SPACES, decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
    ),
    "replaced when fused": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "X")]),
    "pattern when fused": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(" +$"), "")]),
    "pattern behind bytes": decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(Regex("a+b"), "X")]
    ),
}
KINDS = {**BYTEWISE, **OTHERS}

_BYTES = (0x41, 0x20, 0xE2, 0x82, 0xAC, 0xC3, 0xA9, 0xFF, 0xF0, 0x9F, 0x8E, 0x89)
WORDS = (
    *("<unk>", "<s>", "</s>", "<pad>", "|", "\u2581", "\u2581\u2581", "a", "b", "ab", "\u2581a"),
    *("\u2581ab", "##a", "##b", ".", "n't", "'", "'s", "\u2581.", "a</w>", "b</w>", "</w>", "é"),
    *("Ġ", "Ġa", "Ã", "©", "â", "Ĥ", "¬", "日", "\u2581日", " ", "x", "y", "\ufffd"),
    *(f"<0x{byte:02X}>" for byte in _BYTES),
)


def vocabulary(kind: str) -> HfTokenizer:
    """Words, parts, marks and bytes of all kinds, three special tokens, three added words."""
    library = HfTokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    if KINDS[kind] is not None:
        library.decoder = KINDS[kind]
    library.add_special_tokens(["<s>", "</s>", "<pad>"])
    library.add_tokens(["<tool\u2581call>", "Ġw", "ba \u2581"])
    return library
