"""Tokenizers of the kinds Shoal serves, and a text model on one of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as HfTokenizer

from shoal.checkpoint.files import TokenizerFiles
from shoal.checkpoint.hf import HuggingFaceFolder
from shoal.text.chat import Chat
from shoal.text.text_model import TextModel
from shoal.text.tokenizer import Tokenizer
from tests.fakes.text_folder import byte_tokenizer

STORIES = Path(__file__).parents[4] / "shared" / "data" / "models" / "stories260k"
needs_stories = pytest.mark.skipif(
    not STORIES.is_dir(), reason="needs ../shared/data/models/stories260k"
)


def wrap(library: HfTokenizer, **settings: Any) -> Tokenizer:
    """Ours of the library's; `settings` as in tokenizer_config.json."""
    return Tokenizer(TokenizerFiles(library.to_str, settings, "tiny/tokenizer.json"))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder that may hold nothing else."""
    return Tokenizer(HuggingFaceFolder(folder).tokenizer)


def byte_level(folder: Path, specials: Iterable[str] = ()) -> Tokenizer:
    """One token per byte, as GPT-2 spells them, and more special tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    return read_tokenizer(folder)


def byte_fallback(folder: Path) -> Tokenizer:
    """Few words, bytes for the rest, a space before the first word, as SentencePiece does."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", "a", "b", "\u2581a", "ab", "\u2581ab", "é", "\u2581é"]
    tokenizer = HfTokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate(words)},
            merges=[("\u2581", "a"), ("a", "b"), ("\u2581a", "b"), ("\u2581", "é")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return read_tokenizer(folder)


def text_model(tokenizer: Tokenizer, **fields: Any) -> TextModel:
    """A model of this tokenizer without template and defaults."""
    values: dict[str, Any] = {
        "name": "tiny",
        "tokenizer": tokenizer,
        "chat": Chat("tiny", {}, tokenizer),
        "end_token_ids": (),
        "bos_token": None,
        "eos_token": None,
        "pad_token": None,
        "start_token_id": None,
        "defaults": {},
        "created": 0,
    }
    return TextModel(**{**values, **fields})
