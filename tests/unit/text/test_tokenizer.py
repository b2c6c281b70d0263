"""Strings to ids and back, and what the settings of a folder change."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from shoal.errors import ModelFolderError
from shoal.text.tokenizer import Tokenizer
from tests.fakes.text_folder import END_ID, VOCAB_SIZE, byte_tokenizer
from tests.unit.text.building import (
    STORIES,
    byte_fallback,
    byte_level,
    needs_stories,
    read_tokenizer,
    wrap,
)

TEXTS = ["", "a", " a", "ab a  ab", "héé ab", "日本 🎉 e\u0301", "\n\t\x00", "\u202eab", "a" * 500]


@pytest.fixture(scope="module", params=["byte_level", "byte_fallback", "stories260k"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "stories260k":
        if not STORIES.is_dir():
            pytest.skip("needs ../shared/data/models/stories260k")
        return read_tokenizer(STORIES)
    make = {"byte_level": byte_level, "byte_fallback": byte_fallback}[request.param]
    return make(tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(text=st.text(max_size=40))
@example(text="a\u2581b \u2581")
@example(text="a<|endoftext|>")
def test_decoding_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    """SentencePiece spells a space "\u2581", so that in its vocabularies the two are one. The name
    of a special token is that token."""
    if tokenizer.encode("\u2581") == tokenizer.encode(" "):
        text = text.replace("\u2581", " ")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@needs_stories
def test_decoding_equals_the_reference_texts() -> None:
    tokenizer = read_tokenizer(STORIES)
    cases = json.loads((STORIES / "reference-greedy.json").read_text())["cases"]
    assert cases
    for case in cases:
        assert tokenizer.encode(case["prompt"]) == case["prompt_ids"]
        text_key = next(key for key in case if "text" in key)
        assert tokenizer.decode(case["prompt_ids"] + case["output_ids"]).endswith(
            tokenizer.decode(case["output_ids"])
        ), text_key


def test_special_tokens_are_hidden_or_spelled_out(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    ids = [ord("a"), END_ID, ord("b")]
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|endoftext|>b"
    assert tokenizer.token_name(END_ID) == "<|endoftext|>"


def test_a_token_that_is_no_text_alone_is_named_by_its_bytes(tmp_path: Path) -> None:
    assert byte_level(tmp_path).token_name(0xE2) == "bytes:\\xe2"


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eos_token": "<User>"},
        {"pad_token": {"__type": "AddedToken", "content": "<User>", "special": False}},
        {"additional_special_tokens": ["a"]},
        {"added_tokens_decoder": {"261": {"content": "<User>", "special": True}}},
        {"added_tokens_decoder": {"98": {"content": "b", "lstrip": True}}},
        {"image_token": "<User>"},
        {"additional_special_tokens": ["<User>"]},
        {"extra_special_tokens": ["<User>"]},
        {"extra_special_tokens": {"turn_token": "<User>"}},
        {"add_bos_token": True, "bos_token": "<|endoftext|>"},
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True, "bos_token": "b", "eos_token": "<|end|>"},
        {"add_bos_token": False, "bos_token": "<|endoftext|>"},
        {"add_eos_token": True, "bos_token": "<|endoftext|>", "eos_token": "<|end|>"},
    ],
)
def test_settings_mean_what_they_mean_to_transformers(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """A token that they name is special; what is added around a text, tokenizer.json says."""
    library = byte_tokenizer()
    library.add_tokens(["<User>"])
    library.post_processor = processors.TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", library.token_to_id("<|user|>"))]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    ours = read_tokenizer(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("", "a<User>b<|end|>", "é" * 5000):
        ids = ours.encode(text)
        assert ids == theirs(text)["input_ids"]
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(
            text, add_special_tokens=False
        )
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )


def test_a_named_token_without_an_id_stays_unknown(tmp_path: Path) -> None:
    """A new id would have no row in the model."""
    tokenizer = wrap(byte_tokenizer(), pad_token="[PAD]", additional_special_tokens=["[X]"])
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert tokenizer.encode("[PAD][X]") == list(b"[PAD][X]")


@pytest.mark.parametrize(
    "listed", [{"x": {"content": "a"}}, {"1": "a"}, {"1": {}}, {"1": {"content": 3}}]
)
def test_settings_that_list_no_tokens_are_a_plain_refusal(listed: Any) -> None:
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json: the settings beside it"):
        wrap(byte_tokenizer(), added_tokens_decoder=listed)


# --- damaged folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("length", [0, 3, 4, 5, 9000])
def test_the_start_of_a_text_keeps_its_special_tokens(length: int) -> None:
    """As the library truncates, also where a text is so long that it is read in another way."""
    library = byte_tokenizer()
    library.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|end|>",
        special_tokens=[("<|endoftext|>", END_ID), ("<|end|>", 260)],
    )
    ours, text = wrap(library), "abcdefghi" * 1000
    library.enable_truncation(6)
    ids, num_left_out = ours.encode_start(text[:length], 6)
    assert ids == library.encode(text[:length]).ids
    assert num_left_out == max(0, length - 4)
    bare, num_left_out = ours.encode_start(text[:length], 6, add_special_tokens=False)
    assert bare == list(text[: min(length, 6)].encode())
    assert num_left_out == max(0, length - 6)
    with pytest.raises(ValueError, match="2 special tokens leave no room"):
        ours.encode_start(text[:length], 2)
