"""Byte-level BPE of GGUF (`tokenizer.ggml.model` gpt2): merges from the file, and how a text is
cut into words before them, which the file only names (`tokenizer.ggml.pre`).

The patterns are those of each model's own tokenizer.json, as far as it is known; llama.cpp
approximates some of them. A name that is not listed is refused: with another pattern the model
would read another text, and nobody would see it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shoal.checkpoint.gguf_vocab import GgufVocab, with_ends

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_CASED % ('', '')}|\p{{N}}|{_REST_SLASH}"
_GPT4O = rf"{_CASED % (f'{_ENDINGS}?', f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_REST_SLASH}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _digits(*, individual: bool) -> dict[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


@dataclass(frozen=True, slots=True)
class _Pre:
    """How words are found."""

    steps: tuple[dict[str, Any], ...]
    """Of the pre-tokenizer, in order; the last one, or one before it, turns bytes to letters."""
    nfc: bool = False
    """Are characters composed first (Unicode's NFC)?"""
    ignore_merges: bool = False
    """Is a word that is a token never made of merges?"""
    bos: bool = False
    """Does a text begin with the start token where the file does not say?"""


def _by(*patterns: str) -> _Pre:
    return _Pre((*map(_split, patterns), _bytes(use_regex=False)))


_GPT2_PRE = _Pre((_bytes(use_regex=True),))
_NEOX_PRE = replace(_GPT2_PRE, nfc=True)
_DIGITS_PRE = _Pre((_digits(individual=True), _bytes(use_regex=True)))
_LLAMA3_PRE = replace(_by(_LLAMA3), ignore_merges=True, bos=True)
_QWEN2_PRE = replace(_by(_QWEN2), nfc=True)
_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"

_PRES: Mapping[str, _Pre] = {
    # llama.cpp's choice for files that do not say; no model's own pattern
    "default": _by(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    **dict.fromkeys(("gpt-2", "phi-2", "exaone4", "mellum", "gigachat"), _GPT2_PRE),
    **dict.fromkeys(("mpt", "olmo"), _NEOX_PRE),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone"), _DIGITS_PRE),
    "command-r": replace(_DIGITS_PRE, nfc=True),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3_PRE
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _by(_LLAMA3)),
    **dict.fromkeys(("qwen2", "stablelm2", "megrez"), _QWEN2_PRE),
    **dict.fromkeys(("deepseek-r1-qwen", "hunyuan"), _by(_QWEN2)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _by(r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    "tekken": replace(_by(_TEKKEN), ignore_merges=True, bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _by(_GPT4O)),
    "bloom": _by(_BLOOM),
    "falcon": _Pre(
        (
            {"type": "Punctuation", "behavior": "Contiguous"},
            _bytes(use_regex=True),
            _digits(individual=False),
            _split("[0-9][0-9][0-9]"),
        )
    ),
}


def byte_level(vocab: GgufVocab) -> dict[str, Any]:
    """tokenizer.json but for its added tokens."""
    name = vocab.text("pre", "default") or "default"
    if name not in _PRES:
        raise vocab.bad(
            "pre",
            f"is {name[:40]!r}, a way to cut words that Shoal does not know; it knows "
            f"{', '.join(_PRES)}: use the model's Hugging Face folder",
        )
    pre = _PRES[name]
    return {
        "normalizer": {"type": "NFC"} if pre.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre.steps)},
        "post_processor": with_ends(vocab, bos=pre.bos, eos=False),
        "decoder": _bytes(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocab.vocab,
            "merges": vocab.merges,
        },
    }
