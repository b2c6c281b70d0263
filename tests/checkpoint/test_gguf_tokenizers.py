"""Tokenizers of GGUF files against the originals: SentencePiece itself, GPT-2 as `transformers`
builds it, and for the ways to cut words an implementation of their patterns of its own."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.text.text_model import read_text_model
from shoal.text.tokenizer import Tokenizer
from tests.checkpoint.gguf_texts import SHARED, varied_texts
from tests.fakes.gguf_files import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER,
    GgufContent,
    byte_vocabulary,
    vocabulary,
    write_gguf,
)

VOCABULARIES = SHARED / "tokenizers"
EVERY = [7, pytest.param(1, marks=pytest.mark.slow)]
"""Of the 10,000 texts every 7th, in the slow tests all."""
needs_shared = pytest.mark.skipif(
    not VOCABULARIES.is_dir(), reason="needs ../shared/data/tokenizers beside the repository"
)


def tokenizer_of(folder: Path, metadata: dict[str, Any], architecture: str = "llama") -> Tokenizer:
    content = GgufContent(architecture, metadata, {"token_embd.weight": np.ones((1, 32))})
    return Tokenizer(open_model(write_gguf(folder / "tiny.gguf", content)).tokenizer)


def refusal(folder: Path, metadata: dict[str, Any]) -> str:
    with pytest.raises(ModelFolderError) as caught:
        tokenizer_of(folder, metadata)
    return caught.value.message


# --- SentencePiece --------------------------------------------------------------------------------


def sentencepiece_vocabulary(original: Any) -> dict[str, Any]:
    ids = range(original.vocab_size())
    types = [
        UNKNOWN
        if original.is_unknown(i)
        else CONTROL
        if original.is_control(i)
        else BYTE
        if original.is_byte(i)
        else NORMAL
        for i in ids
    ]
    return vocabulary(
        "llama",
        [original.id_to_piece(i) for i in ids],
        types,
        pre="default",
        scores=[float(original.get_score(i)) for i in ids],
        bos_token_id=1,
        eos_token_id=2,
        unknown_token_id=0,
    )


@needs_shared
@pytest.mark.parametrize("every", EVERY)
def test_sentencepiece_gives_the_ids_of_the_original(tmp_path: Path, every: int) -> None:
    library = pytest.importorskip("sentencepiece")
    path = VOCABULARIES / "llama2-32k" / "tokenizer.model"
    original = library.SentencePieceProcessor(str(path))
    tokenizer = tokenizer_of(tmp_path, sentencepiece_vocabulary(original))
    texts = varied_texts()[::every]
    different = [text for text in texts if tokenizer.encode(text) != [1, *original.encode(text)]]
    assert different == []
    for text in texts[::20]:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")


def small_sentencepiece(**changes: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "\u2581a", "ab", "<|x|>"]
    values: dict[str, Any] = {
        "tokens": [*tokens, "[PAD10]"],
        "token_type": [UNKNOWN, CONTROL, CONTROL, BYTE, *[NORMAL] * 5, USER, UNUSED],
        "scores": [0.0, 0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0, -1000.0, -10000.0],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return vocabulary("llama", **{"types": values.pop("token_type"), **values, **changes})


def test_sentencepiece_joins_by_score_and_falls_back_to_bytes(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, small_sentencepiece())
    assert tokenizer.encode("ab") == [1, 7, 6]  # the start of a word wins over "ab"
    assert tokenizer.encode("bab", add_special_tokens=False) == [4, 6, 8]
    assert tokenizer.encode("A", add_special_tokens=False) == [4, 3]
    assert tokenizer.encode("a<|x|>a", add_special_tokens=False) == [7, 9, 7]
    assert tokenizer.vocab_size == 10  # padding at the end is no token
    assert tokenizer.special_ids == {0, 1, 2}


def test_sentencepiece_without_a_prefix_and_with_an_end(tmp_path: Path) -> None:
    metadata = small_sentencepiece(add_space_prefix=False, add_bos_token=False, add_eos_token=True)
    tokenizer = tokenizer_of(tmp_path, metadata)
    assert tokenizer.encode("a") == [5, 2]
    assert tokenizer.decode([4, 5]) == " a"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scores": [0.0] * 11}, "tokenizer.ggml.scores are all the same"),
        ({"scores": [0.0] * 5}, "tokenizer.ggml.scores must be a list of numbers, one per token"),
        ({"bos_token_id": 99}, "tokenizer.ggml.bos_token_id must be a token id"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces must be false"),
        ({"model": "plamo2"}, "tokenizer.ggml.model is 'plamo2', which Shoal cannot read"),
        ({"tokens": ["a", "a"], "types": [1, 1]}, "tokenizer.ggml.tokens has 'a' twice"),
        ({"types": [9] * 11}, "token_type has a number that is no kind of token"),
    ],
)
def test_a_vocabulary_that_cannot_be_right_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    metadata = small_sentencepiece()
    own = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    if "tokenizer.ggml.types" in own:
        own["tokenizer.ggml.token_type"] = own.pop("tokenizer.ggml.types")
    assert sentence in refusal(tmp_path, metadata | own)


# --- byte-level BPE -------------------------------------------------------------------------------

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
I = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # noqa: E741
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
U, L = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ONE = r"[^\r\n\p{L}\p{N}]?"
LLAMA3 = rf"{I}|{ONE}\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"{I}|{ONE}\p{{L}}+|\p{{N}}|{REST}"
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"

PATTERNS: dict[str, list[str]] = {
    "smollm": [r"\p{N}", GPT2],
    "command-r": [r"\p{N}", GPT2],
    "olmo": [GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "tekken": [rf"{ONE}{U}*{L}+|{ONE}{U}+{L}*|\p{{N}}|{SLASH}"],
    "gpt-4o": [rf"{ONE}{U}*{L}+{I}?|{ONE}{U}+{L}*{I}?|\p{{N}}{{1,3}}|{SLASH}"],
    "falcon": [PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "default": [PUNCTUATION.replace("`", ""), GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}
"""One after the other, each within the pieces of the one before."""
COMPOSED = ("qwen2", "olmo", "command-r")
ON_LETTERS = {"falcon": 2}
"""From which pattern on they are applied to the letters that stand for bytes."""
WHOLE_WORDS = ("llama-bpe", "tekken")
"""A word that is a token stays one, whatever the merges say."""


@cache
def gpt2_files() -> tuple[dict[str, int], list[str]]:
    folder = VOCABULARIES / "gpt2-50k"
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()
    vocab: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
    return vocab, [line for line in merges if line and not line.startswith("#version")]


def gpt2_metadata(pre: str, **more: Any) -> dict[str, Any]:
    vocab, merges = gpt2_files()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    types = [CONTROL if token == "<|endoftext|>" else NORMAL for token in tokens]
    ids = {"bos_token_id": 50256, "eos_token_id": 50256}
    return vocabulary("gpt2", tokens, types, pre=pre, merges=merges, **ids, **more)


@needs_shared
@pytest.mark.parametrize("every", EVERY)
def test_gpt2_gives_the_ids_of_the_original(tmp_path: Path, every: int) -> None:
    transformers = pytest.importorskip("transformers")
    vocab, merges = gpt2_files()
    original = transformers.GPT2Tokenizer(
        vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges]
    )
    tokenizer = tokenizer_of(tmp_path, gpt2_metadata("gpt-2"), "gpt2")
    texts = list(varied_texts()[::every])
    texts[1::40] = [f"{text}<|endoftext|> {text}" for text in texts[1::40]]
    wanted = original(texts)["input_ids"]
    found = [tokenizer.encode(text) for text in texts]
    different = [text for text, a, b in zip(texts, found, wanted, strict=True) if a != b]
    assert different == []
    for text, ids in list(zip(texts, found, strict=True))[::20]:
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def reference(pre: str) -> Callable[[str], list[int]]:
    """BPE of each word by itself, the words found with the `regex` package."""
    regex = pytest.importorskip("regex")
    vocab, merges = gpt2_files()
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    bpe = Library(models.BPE(vocab=vocab, merges=pairs))
    patterns = [regex.compile(pattern) for pattern in PATTERNS[pre]]
    num_on_text = ON_LETTERS.get(pre, len(patterns))

    def encode(text: str) -> list[int]:
        if pre in COMPOSED:
            text = unicodedata.normalize("NFC", text)
        pieces = cut_by(patterns[:num_on_text], [text])
        words = ["".join(LETTERS[byte] for byte in piece.encode()) for piece in pieces]
        ids: list[int] = []
        for word in cut_by(patterns[num_on_text:], words):
            is_token = pre in WHOLE_WORDS and word in vocab
            ids += [vocab[word]] if is_token else bpe.encode(word).ids
        return ids

    return encode


def cut_by(patterns: Sequence[Any], pieces: list[str]) -> list[str]:
    for pattern in patterns:
        pieces = [part for piece in pieces for part in cut(pattern, piece)]
    return pieces


def cut(pattern: Any, text: str) -> list[str]:
    """Matches, and what lies between them."""
    parts, end = list[str](), 0
    for match in pattern.finditer(text):
        parts += [text[end : match.start()], match[0]]
        end = match.end()
    return [part for part in (*parts, text[end:]) if part]


def _letters() -> Sequence[str]:
    """GPT-2's letter of each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


LETTERS = _letters()


@needs_shared
@pytest.mark.parametrize("pre", PATTERNS)
def test_words_are_cut_as_the_name_says(tmp_path: Path, pre: str) -> None:
    metadata = gpt2_metadata(pre, add_bos_token=False)
    tokenizer, encode = tokenizer_of(tmp_path, metadata, "gpt2"), reference(pre)
    texts = [text.replace("\u017f", "s") for text in varied_texts()[3::51]]
    different = [text for text in texts if tokenizer.encode(text) != encode(text)]
    assert different == []


def test_some_names_begin_a_text_with_the_start_token(tmp_path: Path) -> None:
    other = byte_vocabulary() | {"tokenizer.ggml.pre": "llama-bpe"}
    assert tokenizer_of(tmp_path, other).encode("x") == [256, ord("x")]
    assert tokenizer_of(tmp_path, byte_vocabulary()).encode("x") == [ord("x")]


def test_an_unknown_way_to_cut_words_is_refused_by_name(tmp_path: Path) -> None:
    metadata = byte_vocabulary() | {"tokenizer.ggml.pre": "superbpe"}
    sentence = refusal(tmp_path, metadata)
    assert "tokenizer.ggml.pre is 'superbpe', a way to cut words that Shoal does not" in sentence


def test_merges_of_other_tokens_are_refused(tmp_path: Path) -> None:
    for merge in ("t q", "th", "t hh"):
        metadata = byte_vocabulary() | {"tokenizer.ggml.merges": [merge]}
        assert f"tokenizer.ggml.merges has {merge!r}" in refusal(tmp_path, metadata)


# --- WordPiece ------------------------------------------------------------------------------------


def test_wordpiece_gives_the_ids_of_bert(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "un", "##believ", "##able",
             ",", "!", "a", "##a", "1", "##2", "中"]  # fmt: skip
    original = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    tokens = [
        word if word.startswith("[") else word[2:] if word.startswith("##") else "\u2581" + word
        for word in words
    ]
    types = [CONTROL if word.startswith("[") else NORMAL for word in words]
    metadata = vocabulary(
        "bert",
        tokens,
        types,
        pre="jina-v2-en",
        unknown_token_id=1,
        cls_token_id=2,
        seperator_token_id=3,
        padding_token_id=0,
    )
    tokenizer = tokenizer_of(tmp_path, metadata)
    for text in ("The cats, unbelievable!", "a aa 12 中中 cát", "", "zzz the", "CATS\n\tthe"):
        assert tokenizer.encode(text) == original(text)["input_ids"]


# --- chat, ends -----------------------------------------------------------------------------------


def files_of(folder: Path, metadata: dict[str, Any]) -> ModelFiles:
    """A file with a network that the text side can ask for its config."""
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 32,
        "attention.head_count": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    tensors = {"token_embd.weight": np.ones((262, 32))}
    content = GgufContent("llama", sizes | metadata, dict(tensors))
    return open_model(write_gguf(folder / "tiny.gguf", content))


def test_the_text_side_reads_ends_templates_and_names(tmp_path: Path) -> None:
    metadata = byte_vocabulary() | {
        "tokenizer.ggml.eot_token_id": 260,
        "tokenizer.ggml.padding_token_id": 0xFFFFFFFF,
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }
    files = files_of(tmp_path, metadata)
    assert set(files.chat_templates) == {"default", "tool_use"}
    model = read_text_model(files, "tiny")
    assert model.end_token_ids == (256, 260)  # <|endoftext|>, and <|end|> of the chat
    assert (model.bos_token, model.pad_token, model.start_token_id) == ("<|endoftext|>", None, 256)
    assert model.tokenizer.encode("the<|user|>") == [261, ord("e"), 257]
    assert model.remarks == ()


def test_an_end_beyond_the_tokens_is_a_remark(tmp_path: Path) -> None:
    metadata = byte_vocabulary() | {"tokenizer.ggml.eot_token_id": 9999}
    files = files_of(tmp_path, metadata)
    (remark,) = read_text_model(files, "tiny").remarks
    assert "9999" in remark
