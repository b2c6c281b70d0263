"""A model's chats: which template, what it is given, messages that are continued; held against
`transformers` where it can do the same."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from shoal.errors import InvalidRequest, NotSupportedByModel
from shoal.text.chat import Chat
from tests.fakes.text_folder import byte_tokenizer
from tests.unit.text.building import wrap

HELLO = [{"role": "user", "content": "hello"}]


def make_chat(templates: str | dict[str, str], **settings: Any) -> Chat:
    named = {"default": templates} if isinstance(templates, str) else templates
    return Chat("tiny", named, wrap(byte_tokenizer(), **settings))


def text_of(model: Chat, messages: list[dict[str, Any]] = HELLO, **options: Any) -> str:
    values: dict[str, Any] = {
        "given": {},
        "add_generation_prompt": not options.get("continue_final_message", False),
        "continue_final_message": False,
        "max_chars": 10_000,
        **options,
    }
    return model.render(messages, **values).text


def theirs(template: str, messages: list[dict[str, Any]] = HELLO, **options: Any) -> str:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), chat_template=template)
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text


# --- which template ------------------------------------------------------------------------------

NAMED = {"default": "chat", "tool_use": "tools: {{ tools | tojson }}", "rag": "documents"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_the_template_named_default_is_used_and_with_tools_the_one_for_tools() -> None:
    model = make_chat(NAMED)
    assert model.source == "chat"
    assert text_of(model) == "chat"
    assert text_of(model, tools=[]) == "chat"
    assert text_of(model, tools=TOOLS) == (
        'tools: [{"type": "function", "function": {"name": "f"}}]'
    )
    assert text_of(make_chat("only {{ tools[0].type }}"), tools=TOOLS) == "only function"


def test_without_a_default_the_names_that_there_are_are_told() -> None:
    with pytest.raises(NotSupportedByModel, match="named default, only rag, tool_use"):
        text_of(make_chat({"tool_use": "a", "rag": "b"}))
    with pytest.raises(NotSupportedByModel, match=r"has no chat template$"):
        text_of(make_chat({}))


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{% unknown %}", "{{ a", "{% generation %}", "{{ x | nothing }}", "{% break %}"],
)
def test_a_bad_template_harms_only_chats_that_need_it(source: str) -> None:
    model = make_chat({"default": source, "tool_use": "tools"})
    assert model.source is None
    (remark,) = model.remarks
    assert "'default'" in remark
    assert text_of(model, tools=TOOLS) == "tools"
    with pytest.raises(NotSupportedByModel, match="not valid Jinja") as refusal:
        text_of(model)
    assert "/v1/completions" in str(refusal.value.hint)


# --- what a template is given --------------------------------------------------------------------


def test_every_named_special_token_is_a_variable() -> None:
    template = "{{ bos_token }}{{ unk_token }}{{ sep_token }}{{ image_token }}{{ mask_token }}"
    names = {
        "bos_token": "<|user|>",
        "unk_token": {"content": "<|end|>"},
        "sep_token": "[SEP]",
        "image_token": "<|system|>",
        "pad_token": None,
    }
    assert text_of(make_chat(template, **names)) == "<|user|><|end|>[SEP]<|system|>"
    extra = {"additional_special_tokens": ["<|user|>", {"content": "<|end|>"}]}
    assert text_of(make_chat("{{ additional_special_tokens[1] }}", **extra)) == "<|end|>"


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools is not none %}tools{% endif %}{% if documents is none %}none{% endif %}",
        "{% if tools is defined and tools %}tools{% endif %}{{ tools }}{{ documents }}",
        "{% if bos_token is defined %}bos{% endif %}{{ bos_token }}{{ pad_token is defined }}",
        "{{ unheard_of is defined }}{{ enable_thinking is defined }}",
        "{{ messages | length }}{{ add_generation_prompt }}",
    ],
)
def test_what_is_not_there_is_absent_as_in_transformers(template: str) -> None:
    assert text_of(make_chat(template)) == theirs(template, add_generation_prompt=True)


def test_variables_of_the_caller_reach_the_template_and_replace_nothing() -> None:
    template = "{{ mode }}{{ thinking }}{{ messages[0].content }}{{ bos_token }}{{ tools }}"
    given = {"mode": "m", "thinking": False, "messages": "no", "bos_token": "no", "tools": "no"}
    assert text_of(make_chat(template, bos_token="<|end|>"), given=given) == (
        "mFalsehello<|end|>None"
    )


# --- continued messages --------------------------------------------------------------------------

TEMPLATES = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}",
    "{% for m in messages %}[{{ m.role }}] {{ m.content.rstrip() }} .{% endfor %}",
    "{% for m in messages %}{{ m.content }}{{ '?' if m.role == 'user' }}{% endfor %}<|end|>",
)
TEXT = st.lists(
    st.sampled_from(["Sure", "a", " ", "\n", ".", "<", "<|end|>", "<|user|>", "é", "?"]), max_size=5
).map("".join)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=60, deadline=None)
@given(first=TEXT, final=TEXT)
def test_the_prompt_ends_where_the_final_message_does(
    template: str, first: str, final: str
) -> None:
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": final}]
    found = text_of(make_chat(template), messages, continue_final_message=True)
    assert found == theirs(template, messages, continue_final_message=True)


@pytest.mark.parametrize(
    "template",
    [
        "nothing",
        "{{ messages[0].content }}",
        "{{ messages[-1].content | upper | replace('S', '') }}",
    ],
)
def test_a_template_that_changes_the_final_message_cannot_continue_it(template: str) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Sure s"}]
    with pytest.raises(InvalidRequest, match="changes the final message"):
        text_of(make_chat(template), messages, continue_final_message=True)
