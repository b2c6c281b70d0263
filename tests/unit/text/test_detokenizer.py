"""Text as it comes equals what the `tokenizers` library says of all ids at once, whatever the
decoder; characters are never shown in halves; the cost per token does not grow."""

import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from shoal.text.tokenizer import Tokenizer
from tests.unit.text.building import byte_level, wrap
from tests.unit.text.decoder_kinds import BYTEWISE, KINDS, OTHERS, vocabulary

LIBRARIES = {kind: vocabulary(kind) for kind in KINDS}
NUM_IDS = LIBRARIES["none"].get_vocab_size()
IDS = st.lists(st.integers(0, NUM_IDS - 1), max_size=60)


@cache
def ours(kind: str, *, clean_up: bool = False) -> Tokenizer:
    return wrap(LIBRARIES[kind], clean_up_tokenization_spaces=clean_up)


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip: bool, prompt: tuple[int, ...] = ()):
    detokenizer = tokenizer.detokenizer(prompt, skip_special_tokens=skip)
    return "".join(map(detokenizer.push, ids)) + detokenizer.finish()


def ids_of(*tokens: str) -> list[int]:
    return [LIBRARIES["none"].token_to_id(token) for token in tokens]


def breaks_late(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Is there a run of byte tokens with a whole character before a wrong byte? A character that
    was shown is not taken back, so the text differs from the library's there."""
    run = b""
    for token_id in [*ids, -1]:
        if token_id in tokenizer._text.byte_ids:
            run += tokenizer.bytes_of(token_id)
            continue
        try:
            run.decode()
        except UnicodeDecodeError as error:
            if error.start:
                return True
        run = b""
    return False


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(ids=IDS, skip=st.booleans())
@example(ids=ids_of("<0xE2>", "<0x82>", "a"), skip=True)
@example(ids=ids_of("<0xE2>", "<0x82>", "<0xAC>", "<0xE2>", "<0x82>", "<0xAC>"), skip=True)
@example(ids=ids_of("<0xFF>", "<0x41>", "<0x41>", "a", "<0x41>"), skip=True)
@example(ids=ids_of("<0xE2>", "</s>", "<0x82>", "<0xAC>"), skip=True)
@example(ids=ids_of("â", "Ĥ", "</s>", "¬"), skip=True)
@example(ids=ids_of("\u2581", "\u2581a", "\u2581ab"), skip=False)
@example(ids=ids_of("<s>", "\u2581a"), skip=False)
@example(ids=ids_of("a</w>", "b", "a</w>", "</w>"), skip=False)
@example(ids=ids_of("a", "a", "<pad>", "a", "|", "b"), skip=True)
@example(ids=ids_of("<pad>") * 40 + ids_of("\u2581a", "\u2581a"), skip=False)
@example(ids=ids_of("ab", "##b", "n't", ".", "'", "'s") * 8, skip=False)
def test_joined_pieces_equal_the_librarys_decoding(kind: str, ids: list[int], skip: bool) -> None:
    tokenizer = ours(kind)
    visible = [i for i in ids if not (skip and i in tokenizer.special_ids)]
    if kind in BYTEWISE and breaks_late(tokenizer, visible):
        return
    expected = LIBRARIES[kind].decode(ids, skip_special_tokens=skip)
    assert streamed(tokenizer, ids, skip=skip) == expected
    assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(ids=IDS)
def test_spaces_are_cleaned_up_where_transformers_does(kind: str, ids: list[int]) -> None:
    """Only where the settings say so, and never for BPE."""
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=LIBRARIES[kind], clean_up_tokenization_spaces=True
    )
    tokenizer = ours(kind, clean_up=True)
    expected = theirs.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids) == expected
    visible = [i for i in ids if i not in tokenizer.special_ids]
    if kind in OTHERS or not breaks_late(tokenizer, visible):
        assert streamed(tokenizer, ids, skip=True) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(ids=IDS, data=st.data())
def test_a_continuation_is_the_rest_of_the_whole_text(
    kind: str, ids: list[int], data: st.DataObject
) -> None:
    """However ids are split into prompt and output, where the split is between characters."""
    if kind in ("replaced when fused", "pattern when fused", "pattern behind bytes"):
        return  # there the prompt's text may change with what follows
    tokenizer = ours(kind)
    cut = data.draw(st.integers(0, len(ids)))
    ids = [i for i in ids if not LIBRARIES[kind].id_to_token(i).startswith("<0x")]
    prompt, output = tuple(ids[:cut]), ids[cut:]
    if tokenizer.decode(prompt).endswith("\ufffd"):
        return
    whole = LIBRARIES[kind].decode(ids, skip_special_tokens=True)
    rest = streamed(tokenizer, output, skip=True, prompt=prompt)
    assert tokenizer.decode(prompt) + rest == whole


def test_characters_before_a_wrong_byte_stay() -> None:
    """The one difference from the library, which makes all four bytes U+FFFD."""
    ids = ids_of("<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "<0x41>", "a")
    assert streamed(ours("sentencepiece"), ids, skip=True) == "€\ufffd\ufffda"
    assert LIBRARIES["sentencepiece"].decode(ids) == "\ufffd" * 5 + "a"


@pytest.mark.parametrize("kind", BYTEWISE)
def test_a_character_is_shown_with_its_last_byte(kind: str) -> None:
    tokens = ("a", "â", "Ĥ", "¬", "b") if "level" in kind else ("a", *"€".encode(), "b")
    names = [t if isinstance(t, str) else f"<0x{t:02X}>" for t in tokens]
    if "ByteFallback" not in str(KINDS[kind]) and "level" not in kind:
        return
    detokenizer = ours(kind).detokenizer(())
    assert [detokenizer.push(i) for i in ids_of(*names)] == ["a", "", "", "€", "b"]
    assert detokenizer.finish() == ""


def test_a_character_that_never_became_whole_is_shown_at_the_end() -> None:
    for kind, names, shown in [
        ("byte level", ("â", "Ĥ"), "\ufffd"),
        ("sentencepiece", ("<0xE2>", "<0x82>"), "\ufffd\ufffd"),
    ]:
        detokenizer = ours(kind).detokenizer(())
        assert [detokenizer.push(i) for i in ids_of(*names)] == ["", ""]
        assert detokenizer.finish() == shown == LIBRARIES[kind].decode(ids_of(*names))


@pytest.mark.parametrize(
    ("kind", "token", "text"),
    [
        ("byte level", "Ġa", " a"),
        ("byte level", "<tool\u2581call>", "<tool\u2581call>"),
        ("sentencepiece", "\u2581ab", " ab"),
        ("metaspace", "\u2581ab", " ab"),
        ("wordpiece", "ab", " ab"),
        ("wordpiece", "##b", "b"),
        ("wordpiece", ".", "."),
        ("end of word", "ab", "ab"),
        ("end of word", "a</w>", "a "),
        ("ctc", "|", " "),
        ("ctc", "<pad>", ""),
        ("none", "ab", " ab"),
        ("none", "x", " x"),
    ],
)
def test_a_token_is_named_by_what_it_adds_inside_a_text(kind: str, token: str, text: str) -> None:
    (token_id,) = ids_of(token)
    tokenizer = ours(kind)
    assert (tokenizer.token_name(token_id), tokenizer.bytes_of(token_id)) == (text, text.encode())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "fused" not in kind])
@settings(max_examples=25, deadline=None)
@given(ids=st.lists(st.integers(0, NUM_IDS - 1), min_size=1, max_size=12))
def test_names_of_log_prob_entries_join_to_the_text(kind: str, ids: list[int]) -> None:
    """But for what a text drops at its ends, and what depends on the neighbours."""
    tokenizer = ours(kind)
    if kind in ("ctc", "pattern behind bytes", "each token stripped", "metaspace behind bytes"):
        return
    anchored = [*ids_of("y"), *ids, *ids_of("y")]
    text = LIBRARIES[kind].decode(anchored, skip_special_tokens=False)
    if "\ufffd" in text:
        return
    joined = b"".join(map(tokenizer.bytes_of, anchored)).decode()
    assert joined.strip(" ") == text.strip(" ")


def test_an_added_word_that_the_library_would_garble_keeps_its_name(tmp_path: Path) -> None:
    """A byte-level decoder takes "é" for the byte 0xE9, also where it is a token's name."""
    library = byte_level(tmp_path).library
    library.add_tokens(["café", "日本"])
    tokenizer = wrap(library)
    ids = tokenizer.encode("a café, 日本!")
    assert library.decode(ids) == "a caf\ufffd, 日本!"
    assert tokenizer.decode(ids) == streamed(tokenizer, ids, skip=True) == "a café, 日本!"
    assert tokenizer.token_name(library.token_to_id("café")) == "café"


def test_an_id_of_a_padded_vocabulary_is_empty_text() -> None:
    """Models may have more rows of logits than the tokenizer has tokens."""
    for kind in KINDS:
        tokenizer = ours(kind)
        beyond = tokenizer.vocab_size + 3
        (a,) = ids_of("a")
        assert streamed(tokenizer, [a, beyond, a], skip=True) == LIBRARIES[kind].decode([a, a])
        assert (tokenizer.token_name(beyond), tokenizer.bytes_of(beyond)) == ("", b"")


@pytest.mark.parametrize("kind", ["metaspace", "wordpiece", "end of word", "none"])
def test_the_cost_of_a_token_does_not_grow_with_the_text(kind: str) -> None:
    """Counted, not timed: how many tokens the library is given."""
    tokenizer = ours(kind)
    text, num_decoded = tokenizer._text, 0
    decode = text.decode

    def counted(tokens: list[str]) -> str:
        nonlocal num_decoded
        num_decoded += len(tokens)
        return decode(tokens)

    text.decode = counted  # type: ignore[method-assign]
    try:
        streamed(tokenizer, ids_of("ab", "\u2581a", "##b", "a</w>") * 500, skip=True)
    finally:
        del text.decode
    assert num_decoded < 2000 * 20


def test_a_known_token_costs_less_than_a_microsecond() -> None:
    detokenizer = ours("byte level").detokenizer(ids_of("a"))
    ids = ids_of("a", "Ġa", "b", "ab") * 250
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for token_id in ids:
            detokenizer.push(token_id)
        times.append(time.perf_counter() - start)
    assert min(times) / len(ids) < 1e-6
