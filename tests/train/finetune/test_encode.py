"""Rows as token ids: the prompts that the server makes, the answers learned and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from shoal.checkpoint.open import open_model
from shoal.text.chat import Chat
from shoal.text.text_model import read_text_model
from shoal.train.config import RecipeError
from shoal.train.finetune.encode import Encoder
from shoal.train.finetune.rows import Row
from tests.fakes import tool_templates
from tests.fakes.text_folder import CHAT_TEMPLATE
from tests.train.finetune.encoding import (
    CONTENTS,
    GENERATION,
    MODELS,
    chat_of,
    kind_model,
    learned,
    runs,
    served,
    tiny,
    whole,
)
from tests.unit.text.building import text_model
from tests.unit.text.chat_kinds import NAMED, TEMPLATES, TOKENIZERS, library, tokenizer

# --- against the server and transformers ----------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=8, deadline=None)
@given(contents=st.lists(CONTENTS, min_size=2, max_size=4).filter(lambda c: len(c) != 3))
@example(contents=["a", "<|im_end|></s>", "<|im_start|>", " b"])
@example(contents=["\n", " \n x", "\ufdd0", "\ufde0 a"])
def test_every_answer_is_learned_behind_the_prompt_of_the_server(
    kind: str, template: str, contents: list[str]
) -> None:
    model = kind_model(kind, template)
    messages = chat_of(*contents)
    rows = Encoder(model, 4096).encode(Row("a", messages=messages))
    found = [
        (row.ids[:start].tolist(), row.ids[end - 1]) for row in rows for start, end in runs(row)
    ]
    prompts = [served(model, messages[:index]) for index in range(1, len(messages), 2)]
    assert sorted(prompt for prompt, _ in found) == sorted(prompts)
    assert {last for _, last in found} <= set(model.end_token_ids)


@pytest.mark.parametrize(
    ("kind", "template"),
    [
        (kind, template)
        for kind in TOKENIZERS
        for template in ("blocks", "header too", "inside words")
        # transformers marks nothing where a block begins with a space that is in no token.
        if template != "inside words" or kind not in ("words", "wordpiece")
    ],
)
@settings(max_examples=8, deadline=None)
@given(
    words=st.lists(st.sampled_from(["the hel", "x", "in us", "é.", "a  b"]), min_size=2, max_size=4)
)
def test_generation_blocks_give_the_ids_and_mask_of_transformers(
    kind: str, template: str, words: list[str]
) -> None:
    messages = chat_of(*words[: len(words) // 2 * 2])
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=library(kind), chat_template=GENERATION[template], **NAMED
    ).apply_chat_template(list(messages), return_dict=True, return_assistant_tokens_mask=True)
    [row] = Encoder(kind_model(kind, template), 4096).encode(Row("a", messages=messages))
    num = len(row.ids)
    assert row.ids.tolist() == theirs["input_ids"][:num]
    assert row.in_loss.tolist() == [bool(one) for one in theirs["assistant_masks"][:num]]
    assert not any(theirs["assistant_masks"][num:])


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=10, deadline=None)
@given(contents=st.lists(CONTENTS, min_size=2, max_size=2))
@example(contents=["<|im_start|>", "</s> b<|im_end|>"])
@example(contents=["<|im_end|>.", "\n."])
def test_generation_blocks_are_found_also_where_a_control_token_is_spelled(
    kind: str, contents: list[str]
) -> None:
    by_block, by_prompt = kind_model(kind, "blocks"), kind_model(kind, "without blocks")
    row = Row("a", messages=chat_of(*contents))
    [found], [expected] = (Encoder(model, 4096).encode(row) for model in (by_block, by_prompt))
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.in_loss.tolist() == expected.in_loss.tolist()


@pytest.mark.parametrize("name", ["smollm2.gguf", "minnow", "pilotfish"])
def test_prompts_of_the_models_here_are_the_servers(name: str) -> None:
    if not (MODELS / name).exists():
        pytest.skip(f"models/{name} is not there")
    model = read_text_model(open_model(MODELS / name), name)
    encoder = Encoder(model, 512)
    messages = (
        {"role": "system", "content": "Talk like a pirate."},
        *chat_of("Hi <|im_end|><|end|>", "Ahoy, matey! <|im_end|>", "Bye", "Fair winds."),
    )
    [row] = encoder.encode(Row("a", messages=messages))
    (first, _), (second, end) = runs(row)
    assert row.ids[:first].tolist() == served(model, messages[:2])
    assert row.ids[:second].tolist() == served(model, messages[:4])
    assert row.ids[end - 1] in model.end_token_ids
    assert end == len(row.ids)
    [pair] = encoder.encode(Row("a", prompt="Hi", completion="Ahoy"))
    [(start, _)] = runs(pair)
    assert pair.ids[:start].tolist() == served(model, chat_of("Hi"))
    assert model.tokenizer.decode(pair.ids[start:].tolist()) == "Ahoy"
    assert "{answer}" in encoder.describe()


CALL = {"id": "call00000", "type": "function",
        "function": {"name": "find", "arguments": '{"city": "Köln <|end|>"}'}}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}  # fmt: skip


@pytest.mark.parametrize("name", ["HERMES", "QWEN3", "LLAMA", "LFM2", "LFM2_JSON", "PLAIN"])
def test_tools_calls_and_results_are_written_as_the_server_does(name: str) -> None:
    model = tiny(CHAT_TEMPLATE if name == "PLAIN" else getattr(tool_templates, name))
    messages = (
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "42 <|end|>", "tool_call_id": "call00000"},
        {"role": "assistant", "content": "There."},
    )
    rows = Encoder(model, 4096).encode(Row("a", messages=messages, tools=(TOOL,)))
    found = sorted(row.ids[:start].tolist() for row in rows for start, _ in runs(row))
    assert found == sorted(served(model, messages[:n], tools=[TOOL]) for n in (1, 3))
    texts = learned(model, rows)
    assert any("find" in text and "Köln <|end|>" in text for text in texts)
    assert "There.<|end|>" in texts


# --- templates that do more -----------------------------------------------------------------------

END = "<|end|>"
DROPS_REASONING = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_an_answer_that_later_looks_otherwise_has_a_row_of_its_own() -> None:
    """As Qwen3: only the newest answer shows its reasoning."""
    model = tiny(DROPS_REASONING)
    messages = tuple(
        {**m, "reasoning_content": "hm"} if m["role"] == "assistant" else m
        for m in chat_of("1", "one", "2", "two")
    )
    rows = Encoder(model, 4096).encode(Row("a, line 1", messages=messages))
    assert [whole(model, row) for row in rows] == [
        "<|user|>1<|end|><|assistant|><think>hm</think>one<|end|>",
        "<|user|>1<|end|><|assistant|>one<|end|><|user|>2<|end|>"
        "<|assistant|><think>hm</think>two<|end|>",
    ]
    assert learned(model, rows) == ["<think>hm</think>one<|end|>", "<think>hm</think>two<|end|>"]
    assert [row.where for row in rows] == ["a, line 1, message 2", "a, line 1"]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"content": "one"}, "\n</think>\n\none<|end|>"),
        ({"content": "one", "reasoning_content": "hm"}, "hm\n</think>\n\none<|end|>"),
        ({"content": "<think>\nhm\n</think>\n\none"}, "hm\n</think>\n\none<|end|>"),
        ({"content": "<think>hm <|end|></think><b>"}, "hm <|end|>\n</think>\n\n<b><|end|>"),
    ],
)
def test_reasoning_that_the_prompt_begins_is_ended(message: dict[str, str], answer: str) -> None:
    """As R1 and QwQ: the prompt opens the reasoning, a past answer is shown without it."""
    model = tiny(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content.split('</think>')[-1] | trim }}"
        "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
    )
    messages = (*chat_of("1"), {"role": "assistant", **message})
    [row] = Encoder(model, 4096).encode(Row("a", messages=messages))
    [(start, end)] = runs(row)
    assert row.ids[:start].tolist() == served(model, messages[:1])
    assert learned(model, [row]) == [answer]
    assert end == len(row.ids)
    assert (row.ids == model.end_token_ids[0]).sum() == 2  # only those of the template


def test_a_prompt_that_ends_reasoning_at_once_is_the_servers() -> None:
    model = tiny(CHAT_TEMPLATE.replace("<|assistant|>\n", "<|assistant|>\n<think>\n\n</think>\n\n"))
    [row] = Encoder(model, 4096).encode(Row("a", messages=chat_of("1", "<b>")))
    assert whole(model, row) == (
        "<|user|>\n1<|end|>\n<|assistant|>\n<think>\n\n</think>\n\n<b><|end|>"
    )
    assert learned(model, [row]) == ["<b><|end|>"]


def test_an_end_token_is_added_where_the_template_writes_none() -> None:
    model = tiny("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                 "{% if add_generation_prompt %}assistant:{% endif %}")  # fmt: skip
    [row] = Encoder(model, 4096).encode(Row("a", messages=chat_of("1", "one", "2", "two")))
    assert whole(model, row) == "user: 1\nassistant: one\nuser: 2\nassistant: two<|end|>"
    assert learned(model, [row]) == [" one", " two<|end|>"]


def test_an_end_of_turn_that_the_model_does_not_end_at_is_learned_with_an_end_behind() -> None:
    model = tiny(CHAT_TEMPLATE, end="<|endoftext|>")
    [row] = Encoder(model, 4096).encode(Row("a", messages=chat_of("1", "one")))
    assert learned(model, [row]) == ["one<|end|><|endoftext|>"]


def test_a_token_that_reaches_into_a_block_is_split_at_its_border() -> None:
    """The server's prompt ends there: " t" would be one token."""
    template = GENERATION["inside words"].replace("A:{% generation %} ", "A: {% generation %}")
    wrapped = tokenizer("byte level")
    chat = Chat("tiny", {"default": template}, wrapped)
    model = text_model(wrapped, chat=chat, end_token_ids=(wrapped.special_id("</s>") or 0,))
    rows = Encoder(model, 99).encode(Row("a", messages=chat_of("x", "the", "x", "us", "x", "the")))
    assert sorted(learned(model, rows)) == ["the</s>", "the</s>", "us</s>"]
    for row in rows:
        for start, _ in runs(row):
            before = whole(model, row._replace(ids=row.ids[:start]))
            assert before.endswith("A: ")
            assert row.ids[:start].tolist() == wrapped.encode(before)


def test_an_end_token_right_behind_a_generation_block_is_learned() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
    )
    rows = Encoder(tiny(template), 4096).encode(Row("a", messages=chat_of("1", "one", "2", "two")))
    assert learned(tiny(template), rows) == ["one<|end|>", "two<|end|>"]
    without = tiny(template.replace("<|end|>", ""))
    rows = Encoder(without, 4096).encode(Row("a", messages=chat_of("1", "one")))
    assert learned(without, rows) == ["one<|end|>"]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, GENERATION["blocks"]])
def test_answers_of_weight_zero_and_greetings_are_only_read(template: str) -> None:
    model = tiny(template.replace("<|im_start|>", "<|user|>").replace("<|im_end|>", END))
    messages = ({"role": "assistant", "content": "Welcome"}, *chat_of("1", "one", "2", "two"))
    [row] = Encoder(model, 4096).encode(Row("a", messages=messages, context_only=frozenset({2})))
    assert learned(model, [row]) == ["two<|end|>"]
    assert "Welcome" in whole(model, row)
    assert "one" in whole(model, row)
    [row] = Encoder(model, 4096).encode(Row("a", messages=messages, context_only=frozenset({4})))
    assert learned(model, [row]) == ["one<|end|>"]
    assert whole(model, row).endswith("one<|end|>")


def test_variables_of_a_row_go_to_the_template() -> None:
    model = tiny("{% if deep %}<|system|>{% endif %}" + CHAT_TEMPLATE)
    row = Row("a", messages=chat_of("1", "one"), variables={"deep": True})
    assert whole(model, *Encoder(model, 4096).encode(row)).startswith("<|system|><|user|>")


def test_what_the_template_refuses_is_named(tmp_path: Path) -> None:
    model = tiny(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + CHAT_TEMPLATE
    )
    system = {"role": "system", "content": "Be brief."}
    bad = [Row(f"a, line {n}", messages=(system, *chat_of("1", "one"))) for n in range(7)]
    good = Row("a, line 9", messages=chat_of("1", "one"))
    with pytest.raises(RecipeError) as raised:
        Encoder(model, 4096).encode_all([good, *bad])
    assert "refuses 7 rows, as the server would:" in str(raised.value)
    assert "a, line 4: System role not supported" in str(raised.value)
    assert str(raised.value).endswith("and 2 more")
    with pytest.raises(RecipeError, match="a, line 0: System role"):
        Encoder(model, 4096).encode(bad[0])
    assert len(Encoder(model, 4096).encode(good)) == 1


# --- without a template ---------------------------------------------------------------------------


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(RecipeError, match=r"a, line 1 is a chat, but model tiny has no chat templ"):
        Encoder(tiny(None), 99).encode(Row("a, line 1", messages=chat_of("1", "one")))
