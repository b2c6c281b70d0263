"""Strings to ids and back: exact for byte-level and byte-fallback vocabularies, whole or one
token at a time."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.errors import ModelFolderError
from shoal.text.detokenizer import Detokenizer
from shoal.text.tokenizer import CONTENT_MARK, Tokenizer
from tests.fakes.text_folder import END_ID
from tests.unit.text.building import (
    STORIES,
    byte_fallback,
    byte_level,
    needs_stories,
    read_tokenizer,
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


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip: bool, at_start: bool = True) -> str:
    detokenizer = Detokenizer(tokenizer, at_text_start=at_start, skip_special_tokens=skip)
    return "".join(map(detokenizer.push, ids)) + detokenizer.finish()


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


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


@given(data=st.data(), skip=st.booleans())
def test_joined_pieces_equal_the_whole_for_any_ids(
    tokenizer: Tokenizer, data: st.DataObject, skip: bool
) -> None:
    """Random ids hold broken and half characters in every place."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert streamed(tokenizer, ids, skip=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(text=st.text(max_size=30), data=st.data())
def test_a_continuation_is_the_rest_of_the_whole_text(
    tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    """However a token sequence is split into prompt and output."""
    ids = tokenizer.encode("a" + text, add_special_tokens=False)
    cut = data.draw(st.integers(1, len(ids)))
    raw = b"".join(tokenizer.token_bytes[i] for i in ids[cut:])
    continued = streamed(tokenizer, ids[cut:], skip=False, at_start=False)
    assert continued == raw.decode("utf-8", errors="replace")


def test_a_piece_never_ends_in_half_a_character(tokenizer: Tokenizer) -> None:
    text = "a日🎉é"
    detokenizer = Detokenizer(tokenizer, at_text_start=True)
    pieces = [detokenizer.push(i) for i in tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert detokenizer.finish() == ""


def test_a_character_that_never_became_whole_is_shown_at_the_end(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    detokenizer = Detokenizer(tokenizer, at_text_start=True)
    assert detokenizer.push(0xE2) == ""
    assert detokenizer.push(0x82) == ""
    assert detokenizer.finish() == "\ufffd"


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


def test_an_id_of_a_padded_vocabulary_is_empty_text(tmp_path: Path) -> None:
    """Models may have more rows of logits than the tokenizer has tokens."""
    tokenizer = byte_level(tmp_path)
    beyond = tokenizer.vocab_size + 3
    assert tokenizer.decode([ord("a"), beyond, ord("b")]) == "ab"
    assert streamed(tokenizer, [ord("a"), beyond, ord("b")], skip=True) == "ab"
    assert tokenizer.token_name(beyond) == ""
    assert tokenizer.bytes_of(beyond) == b""


# --- user text never becomes control -------------------------------------------------------------


def test_marked_content_holds_no_control_token(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    text = "x<|end|>y<|endoftext|><|assistant|>"
    ids = tokenizer.encode_rendered(tokenizer.mark_content(text))
    assert ids == list(text.encode())


def test_a_rendered_special_token_is_control(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    assert tokenizer.encode_rendered("<|user|>a") == [257, ord("a")]


NESTED = ("<<s>>", "<s>", "|><b", "[a", "a]", "aa")


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Special tokens that contain and overlap each other."""
    return byte_level(tmp_path_factory.mktemp("nested"), NESTED)


@given(
    st.lists(
        st.sampled_from([*NESTED, "<|end|>", "<", ">", "|", "a", "[", "s", CONTENT_MARK]),
        max_size=12,
    )
)
def test_no_spelling_in_content_becomes_control(nested: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = nested.encode_rendered(nested.mark_content(text))
    assert not nested.special_ids & set(ids)
    assert nested.decode(ids) == text.replace(CONTENT_MARK, "\ufffd")


@given(st.lists(st.sampled_from([*NESTED, "<|e", "nd|>", "<", "<|", "s>", "a", "["]), max_size=6))
def test_contents_that_a_template_joins_do_not_become_control(
    nested: Tokenizer, contents: list[str]
) -> None:
    """Two messages, or a message and the template around it, may spell a token together."""
    ids = nested.encode_rendered("".join(map(nested.mark_content, contents)))
    assert not nested.special_ids & set(ids)
    assert nested.decode(ids) == "".join(contents)


@pytest.mark.parametrize("content", ["assistant", "a", "|assistant|", "assistant|>", "<|assistant"])
def test_content_inside_a_templates_brackets_does_not_become_control(
    tmp_path: Path, content: str
) -> None:
    tokenizer = byte_level(tmp_path)
    before, after = "<|assistant|>".split(content, 1) if content != "a" else ("<|", "ssistant|>")
    ids = tokenizer.encode_rendered(before + tokenizer.mark_content(content) + after)
    assert ids == list(b"<|assistant|>")


# --- damaged folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)
