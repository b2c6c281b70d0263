"""Pairs, texts and lengths as token ids, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shoal.checkpoint.open import open_model
from shoal.text.chat_tokens import ControlTokens, RenderedChat
from shoal.text.text_model import read_text_model
from shoal.train.config import RecipeError
from shoal.train.finetune.encode import Encoder
from shoal.train.finetune.rows import Row
from tests.fakes.text_folder import CHAT_TEMPLATE, write_text_folder
from tests.train.finetune.encoding import (
    MODELS,
    chat_of,
    learned,
    runs,
    tiny,
    whole,
)
from tests.unit.text.building import text_model
from tests.unit.text.chat_kinds import TOKENIZERS, tokenizer


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Q: x\nA:", " the hello"),
        ("Q: x\nA: ", "the hello"),
        ("he", "l"),
        ("x", "\nthe"),
        ("", "x"),
    ],
)
def test_a_pair_is_the_prompt_of_completions_and_goes_on(
    kind: str, prompt: str, completion: str
) -> None:
    wrapped = tokenizer(kind)
    start, end = wrapped.special_id("<s>"), wrapped.special_id("</s>")
    assert start is not None
    assert end is not None
    model = text_model(wrapped, end_token_ids=(end,), start_token_id=start)
    [row] = Encoder(model, 99).encode(Row("a", prompt=prompt, completion=completion))
    fed = wrapped.encode(prompt) or [start]
    assert row.ids[: len(fed)].tolist() == fed
    assert row.ids[-1] == end
    assert list(runs(row)) == [(len(fed), len(row.ids))]
    shown = wrapped.detokenizer(fed, skip_special_tokens=False)
    answer = "".join(map(shown.push, row.ids[len(fed) : -1].tolist())) + shown.finish()
    if kind not in ("words", "wordpiece", "unigram"):  # these change the text
        # At a text's beginning they have a space before the first word that none wrote.
        assert (answer if prompt else answer.lstrip(" ")) == completion


def test_texts_are_learned_whole_and_cut_into_windows() -> None:
    model = tiny(CHAT_TEMPLATE)
    encoder = Encoder(model, 5)
    windows = encoder.encode(Row("a", text="abcdefgh"))
    assert [whole(model, row) for row in windows] == ["abcde", "efgh<|end|>"]
    assert learned(model, windows) == ["bcde", "fgh<|end|>"]
    [short] = encoder.encode(Row("a", text="ab<|end|>"))
    assert whole(model, short) == "ab<|end|>"
    [goes_on] = encoder.encode(Row("a", text="ab", is_end=False))
    assert whole(model, goes_on) == "ab"
    for size in range(2, 12):
        rows = Encoder(model, size).encode(Row("a", text="abcdefgh"))
        assert all(2 <= len(row.ids) <= size for row in rows)
        assert "".join(learned(model, rows)) == "bcdefgh<|end|>"


def test_a_text_that_spells_the_begin_token_has_it_once(tmp_path: Path) -> None:
    if not (MODELS / "minnow").exists():
        pytest.skip("models/minnow is not there")
    model = read_text_model(open_model(MODELS / "minnow"), "minnow")
    encoder = Encoder(model, 99)
    first, second = (encoder.encode(Row("a", text=t))[0] for t in ("Hi", "<|endoftext|>Hi"))
    assert first.ids.tolist() == second.ids.tolist()
    assert first.ids[0] == first.ids[-1] == 0
    assert encoder.describe("text").endswith("each ended by <|endoftext|>")


# --- what is too long -----------------------------------------------------------------------------


def test_rows_that_are_too_long_are_left_out_and_counted() -> None:
    encoder = Encoder(tiny(CHAT_TEMPLATE), 30)
    rows = [Row(f"a, line {n}", prompt="1", completion="x" * n) for n in range(1, 30)]
    found = encoder.encode_all(rows)
    assert len(found.rows) == 22
    assert max(len(row.ids) for row in found.rows) == 30
    assert found.notes == (
        "left out, longer than 30 tokens: 7 rows (a, line 23; a, line 24; a, line 25; and 4 more)",
    )
    with pytest.raises(RecipeError, match="nothing is left to learn: left out, longer than 30"):
        encoder.encode_all(rows[-3:])
    assert encoder.encode_all([]).rows == []


def test_of_a_long_chat_the_answers_that_fit_are_learned() -> None:
    model = tiny(CHAT_TEMPLATE)
    row = Row("a", messages=chat_of("1", "one", "2", "two", "3", "three"))
    found = Encoder(model, 30).encode_all([row])
    assert learned(model, found.rows) == ["one<|end|>", "two<|end|>"]
    assert whole(model, found.rows[0]).endswith("two<|end|>")
    assert found.notes == ("left out: 1 answers of chats that end behind 30 tokens",)


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(RecipeError, match="1 tokens hold no text"):
        Encoder(tiny(None), 1)


def test_what_is_not_learned_is_told() -> None:
    greeting = Row("a", messages=({"role": "assistant", "content": "Hi"}, *chat_of("1", "x")[1:]))
    unanswered = Row("a", messages=chat_of("1", "one"), context_only=frozenset({1}))
    model = tiny(CHAT_TEMPLATE, end="none")
    found = Encoder(model, 99).encode_all([greeting, unanswered])
    assert learned(model, found.rows) == ["x<|end|>"]
    assert found.notes == (
        "left out: 1 chats in which no message is answered",
        "the base names no end token: answers are taught without an end",
    )


def test_how_rows_are_written_is_described() -> None:
    assert Encoder(tiny(CHAT_TEMPLATE), 99).describe() == (
        r"the base's chat template: '<|user|>\n{prompt}<|end|>\n<|assistant|>\n{answer}<|end|>', "
        "learned is '{answer}<|end|>'"
    )
    assert Encoder(tiny(None), 99).describe() == (
        "no chat template: prompt and completion joined, then <|end|>"
    )
    dated = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    assert Encoder(tiny(dated), 99).describe().endswith("; it holds today's date")
    refuses = Encoder(tiny("{{ raise_exception('Never.') }}"), 99).describe()
    assert refuses.endswith("refuses a plain question: Never.")
    broken = Encoder(tiny("{% for %}"), 99).describe()
    assert "no chat template (cannot be used: chat template 'default': " in broken


def test_a_chat_of_many_turns_is_marked_and_tokenized_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though each of its answers has a prompt of its own."""
    model = tiny(CHAT_TEMPLATE)
    encoder = Encoder(model, 4096)
    marked, tokenized = list[str](), list[str]()
    mark, encode_batch = ControlTokens.mark, ControlTokens.encode_batch

    def spied_mark(self: ControlTokens, text: str) -> str:
        marked.append(text)
        return mark(self, text)

    def spied_batch(self: ControlTokens, chats: Sequence[RenderedChat]) -> list[list[int]]:
        tokenized.extend(chat.text for chat in chats)
        return encode_batch(self, chats)

    monkeypatch.setattr(ControlTokens, "mark", spied_mark)
    monkeypatch.setattr(ControlTokens, "encode_batch", spied_batch)
    contents = [f"{n} words" for n in range(20)]
    [row] = encoder.encode(Row("a", messages=chat_of(*contents)))
    assert learned(model, [row]) == [f"{content}<|end|>" for content in contents[1::2]]
    assert [text for text in marked if "words" in text] == contents
    assert tokenized == [whole(model, row), "<|assistant|>\n"]


def test_many_rows_are_encoded_as_each_alone(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path / "base")
    model = read_text_model(open_model(folder), "base")
    encoder = Encoder(model, 200)
    rows = [
        Row("a", prompt=f"{n}", completion="<|end|> one" if n % 3 else f"two {n}")
        for n in range(1200)
    ]
    together = encoder.encode_all(rows).rows
    alone = [each for row in rows for each in encoder.encode(row)]
    assert [row.ids.tolist() for row in together] == [row.ids.tolist() for row in alone]
    assert [row.in_loss.tolist() for row in together] == [row.in_loss.tolist() for row in alone]
    assert together[0].ids.dtype == np.int32
    assert {row.where for row in together} == {"a"}
