"""Chat templates: rendered as Hugging Face does, without a way out and with limits."""

import sys
from datetime import datetime, tzinfo
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from shoal.errors import InvalidRequest, ModelFolderError
from shoal.text import template_language
from shoal.text.chat_template import ChatTemplate

HELLO = [{"role": "user", "content": "hello"}]


def render(source: str, messages: Any = HELLO, **options: Any) -> str:
    variables = {"messages": messages, "add_generation_prompt": True}
    variables |= options.pop("variables", {})
    return ChatTemplate(source).render(variables, **{"max_chars": 10_000, **options})


def test_messages_and_variables_are_rendered() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    text = render(source, variables={"bos_token": "<s>"})
    assert text == "<s>[user]hello\n[assistant]"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hello"}]'),
        ("{{ {'a': 'é<'} | tojson }}", '{"a": "é<"}'),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}", "2"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% if unknown is defined %}a{% else %}b{% endif %}{{ unknown }}", "b"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
    ],
)
def test_what_templates_of_the_hub_use_is_there(source: str, text: str) -> None:
    assert render(source) == text


DATA = [
    {"role": "user", "content": "<b>é \U0001f389 \x7f \u2028 'a' & \"b\"\\ud83d"},
    {"z": [1, 2.5, None, True], "a": {"c": [], "b": {}}},
]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | tojson }}",
        "{{ messages | tojson(ensure_ascii=True) }}",
        "{{ messages | tojson(false) }}",
        "{{ messages | tojson(indent=4) }}",
        "{{ messages | tojson(indent='\t', ensure_ascii=True) }}",
        "{{ messages | tojson(separators=(',', ':')) }}",
        "{{ messages | tojson(separators=(',', ': '), sort_keys=true, indent=2) }}",
        "{{ messages[1] | tojson(sort_keys=True) }}",
    ],
)
def test_json_is_written_with_the_options_of_transformers(source: str) -> None:
    assert render(source, DATA) == theirs(source, DATA)


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}a{% endgeneration %}",
        "{% for m in messages %}\n  {% generation %}\n{{ m.content }}\n"
        "  {% endgeneration %}\n{% endfor %}",
        "{%- generation -%} a {{ messages[0].role }} {%- endgeneration -%} b",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "{% macro f(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{{ f('y') }}",
        "{% generation %}{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}"
        "{% endfor %}{% endgeneration %}",
    ],
)
def test_what_stands_in_a_generation_block_is_printed(source: str) -> None:
    assert render(source) == theirs(source, HELLO)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_generation_blocks_are_marked_where_asked(elsewhere: bool) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %}"
    )
    source += "{% endfor %}" + "{{ range(1) | length }}" * elsewhere
    template = ChatTemplate(source)
    assert template.is_bounded is not elsewhere
    assert template.has_generation_blocks
    variables, end = {"messages": HELLO}, "1" * elsewhere
    plain = template.render(variables, max_chars=99)
    marked = template.render(variables, max_chars=99, marks_generated=True)
    text = str(HELLO[0]["content"])
    assert plain == f"user:{text}{end}"
    assert marked == f"user:\ufde0{text}\ufde1{end}"
    assert template.render(variables, max_chars=99) == plain


def test_the_clock_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        hour_now = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            cls.hour_now += 1
            return cls(2026, 1, 2, cls.hour_now)

    monkeypatch.setattr(template_language, "datetime", Clock)
    template = ChatTemplate("{{ strftime_now('%d %b %Y %H') }}")
    assert [template.render({}, max_chars=99) for _ in "ab"] == ["02 Jan 2026 01", "02 Jan 2026 02"]


def test_a_templates_own_text_is_known() -> None:
    source = "<a>{% if x == '<b>' %}{{ '<c>' + y['<d>'] }}{% endif %}{# <no> #}"
    assert set(ChatTemplate(source).literals) == {"<a>", "<b>", "<c>", "<d>"}


def theirs(source: str, messages: Any) -> str:
    """As `transformers` renders it."""
    (text,), _ = render_jinja_template([messages], chat_template=source)
    return str(text)


def test_the_words_of_a_template_that_refuses_reach_the_caller() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '%s'|format(messages.append) and ''.format.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].environ }}",
        "{{ self._TemplateReference__context.environment.loader.x }}",
        "{{ raise_exception.__globals__.time.x }}",
        "{{ strftime_now.__self__.__class__.mro() }}",
        "{% set _ = messages.append(1) %}{{ messages }}",
        "{% set _ = messages[0].update({'role': 'system'}) %}{{ messages }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% extends '/etc/passwd' %}",
        "{{ (1).__class__ }}",
        "{% for x in range(10**9) %}{% endfor %}",
        "{{ messages[7].role.upper().x }}",
        "{{ 1 // 0 }}",
        "{{ 'a' + 1 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_a_template_must_not_do_is_a_plain_refusal(source: str) -> None:
    """An error of ours without a word of Python, or text without anything of the machine."""
    try:
        text = render(source)
    except InvalidRequest as error:
        text = error.message
    for leak in ("class", "root:", "function", "Error", "__"):
        assert leak not in text


def test_messages_are_not_changed_by_a_template() -> None:
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(InvalidRequest):
        render("{% set _ = messages.append(1) %}", messages)
    assert messages == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(("max_chars", "fits"), [(99, False), (100, True), (101, True)])
def test_output_is_limited(max_chars: int, fits: bool) -> None:
    source = "{% for i in range(100) %}x{% endfor %}"
    if fits:
        assert len(render(source, max_chars=max_chars)) == 100
    else:
        with pytest.raises(InvalidRequest, match="more than 99 characters"):
            render(source, max_chars=max_chars)


def test_the_limit_leaves_nothing_behind() -> None:
    before = sys.gettrace()
    render("{{ messages }}")
    assert sys.gettrace() is before


def test_a_template_with_a_syntax_error_is_found_when_the_model_is_read() -> None:
    with pytest.raises(ModelFolderError, match="chat template"):
        ChatTemplate("{% for %}")
