"""Which templates may be rendered in the server's own process: those whose every step is small."""

import pytest

from shoal.text.template_bounds import has_bounded_steps
from shoal.text.template_language import parse_template
from tests.fakes import tool_templates
from tests.unit.text.chat_kinds import TEMPLATES

LOOP = "{% for m in messages %}%s{% endfor %}"
BOUNDED = {
    **{
        name.lower(): text
        for name, text in vars(tool_templates).items()
        if isinstance(text, str) and name.isupper()
    },
    **TEMPLATES,
    "alternating roles": LOOP.replace(
        "%s",
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content | trim }}",
    ),
    "a text that grows by each message": "{% set ns = namespace(text='') %}"
    + LOOP.replace("%s", "{% set ns.text = ns.text + '\n' + m.content %}")
    + "{{ ns.text }}",
    "a list that grows": "{% set ns = namespace(kept=[]) %}"
    + LOOP.replace("%s", "{% set ns.kept = ns.kept + [m] %}")
    + "{% for m in ns.kept %}{{ m.content }}{% endfor %}",
    "an index found from the end": "{% set ns = namespace(last=messages|length - 1) %}"
    "{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}"
    "{% if m.role == 'user' and not m.content.startswith('<x>') %}"
    "{% set ns.last = index %}{% endif %}{% endfor %}{{ messages[ns.last].content }}",
    "a variable made anew in each turn": LOOP.replace(
        "%s",
        "{% set content = m.content %}{% if content is not string %}"
        "{% set content = content | tojson %}{% endif %}"
        "{% set content = '<a>' + content.split('</think>')[-1].lstrip('\n') %}{{ content }}",
    ),
    "dates, filters and constants": "{{ strftime_now('%d %b %Y') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('\n') }}"
    "{{ tools | tojson(indent=4) if tools else '' }}{% if x is defined and x %}{{ -1 }}{% endif %}",
    "generation blocks": "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}",
}
NOT_SHOWN = {
    "a constant repeated": "{{ ('a' * 10**9) | length }}",
    "a text repeated by a number given": "{{ messages[0].content * n }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a width in a format": "{{ '%999999999d' % 1 }}",
    "a format that is given": "{{ messages[0].content % 1 }}",
    "a variable that may be given": "{% if x %}{% set n = 5 %}{% endif %}{{ n % 2 }}",
    "format": "{{ '{:>999999999}'.format(1) }}",
    "a method under another name": "{% set f = 'a'.center %}{{ f(999999999) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "a date with a width": "{{ strftime_now('%999999999d') }}",
    "a range": "{% for x in range(10**9) %}{% endfor %}",
    "sorting": "{{ messages | sort(attribute='content') }}",
    "a macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ f(f('a')) }}",
    "a recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "doubled in each turn": "{% set ns = namespace(x='a') %}"
    + LOOP.replace("%s", "{% set ns.x = ns.x ~ ns.x %}"),
    "doubled in two steps": "{% set ns = namespace(x='a', y='') %}"
    + LOOP.replace("%s", "{% set ns.y = ns.x ~ 'b' %}{% set ns.x = ns.y ~ ns.x %}"),
    "doubled by way of a variable": "{% set ns = namespace(x='a') %}"
    + LOOP.replace("%s", "{% set y = ns.x ~ 'b' %}{% set ns.x = y ~ y %}"),
    "doubled under another name": "{% set ns = namespace(x='a') %}{% set other = ns %}"
    + LOOP.replace("%s", "{% set ns.x = other.x ~ other['x'] %}"),
    "escaped in each turn": "{% set ns = namespace(x='\"') %}"
    + LOOP.replace("%s", "{% set ns.x = ns.x | tojson %}"),
    "lengthened in each turn": "{% set ns = namespace(x='a') %}"
    + LOOP.replace("%s", "{% set ns.x = ns.x.replace('a', 'aa') %}"),
    "squared in each turn": "{% set ns = namespace(x=9) %}"
    + LOOP.replace("%s", "{% set ns.x = ns.x * ns.x %}"),
    "doubled many times over": "{% set x = messages[0].content %}" + "{% set x = x ~ x %}" * 9,
    "a chain of variables": "".join(f"{{% set x{i + 1} = x{i} ~ x{i} ~ x{i} %}}" for i in range(9)),
    "escaped many times over": "{{ messages" + "| tojson" * 3 + " }}",
    "a doubled list": "{% set x = [messages, messages] %}" * 1 + "{% set x = [x, x] %}" * 9,
    "the turn before": LOOP.replace("%s", "{{ loop.previtem }}"),
    "a captured block": "{% set x %}{{ messages }}{{ messages }}{% endset %}{{ x }}",
    "a filter that is given": "{{ messages | map(name) | list }}",
    "an unknown filter": "{{ messages | pprint }}",
    "an unknown method": "{{ messages[0].content.zfill(999999999) }}",
    "an include": "{% include 'x' %}",
}


@pytest.mark.parametrize("name", BOUNDED)
def test_templates_as_they_are_published_are_shown_to_be_bounded(name: str) -> None:
    assert has_bounded_steps(parse_template(BOUNDED[name]))


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_of_what_can_grow_in_one_step_nothing_is_shown(name: str) -> None:
    assert not has_bounded_steps(parse_template(NOT_SHOWN[name]))
