"""Chat templates that are bombs: they cost a process of their own and nobody else."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from shoal.errors import ModelFolderError, NotSupportedByModel, ShoalError
from shoal.text import chat_template
from shoal.text.chat import Chat
from shoal.text.chat_template import ChatTemplate, MustWait
from tests.fakes.text_folder import byte_tokenizer
from tests.faults.measured import Measured
from tests.http.building import serve_script
from tests.http.test_chat import with_template
from tests.unit.text.building import wrap
from tests.unit.text.test_template_bounds import BOUNDED

HELLO = [{"role": "user", "content": "hello"}]
SLOW = "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}"
MEMORY = {
    "a repeated constant": "{{ ('a' * 10**9) | length }}",
    "a width in a format": "{{ '%999999999d' % 1 }}",
    "center": "{{ 'a' | center(999999999) | length }}",
    "doubled in each turn": "{% set ns = namespace(x='a') %}{% for x in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
    "nested macros": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ "
    + "f(" * 33
    + "'a'"
    + ")" * 33
    + " }}",
    "indented JSON": "{{ messages | tojson(indent=999999999) }}",
    "a long sort": "{{ (range(99999) | list * 900) | sort | length }}",
}
TIME = {
    "loops": SLOW,
    "while it is compiled": "{{ ('x' * 50000000) | wordwrap(1) | length }}",
    "text out of nothing": "{{ lipsum(n=99999) | length }}",
    "a loop in a macro": "{% macro f() %}" + SLOW + "{% endmacro %}{{ f() }}",
}
REFUSALS = ("cannot render", "took too much memory", "took too long")
"""Which limit ends memory that is really taken first depends on the machine: where pages are slow
to come, computing."""
DEEP = {
    "brackets": "{{ " + "(" * 100_000 + " }}",
    "signs": "{{ " + "-" * 5000 + "1 }}",
    "sums": "{{ 1" + "+1" * 5000 + " }}",
    "conditions": "{% if a %}" * 2000 + "{% endif %}" * 2000,
    "filters": "{{ messages" + "|list" * 3000 + " }}",
    "a long one": "x" * (1 << 20),
}


def outcome(source: str) -> str:
    """What becomes of a chat with the template; any error but ours fails."""
    try:
        return ChatTemplate(source).render({"messages": HELLO}, max_chars=1000)
    except ShoalError as error:
        return error.message


def refused_within(source: str, measured: Measured, situation: str, *, max_s: float) -> str:
    """By limits that hold for this process too: of its memory and of wall time."""
    memory = psutil.Process()
    ChatTemplate("{{ 'a' * 2 }}").render({}, max_chars=9)  # the helper runs
    before, began = memory.memory_info().rss, time.monotonic()
    message = outcome(source)
    took, grown = time.monotonic() - began, memory.memory_info().rss - before
    measured(
        f"template: {situation}",
        promised=f"refused in {max_s:g} s, at most 64 MiB more here",
        measured=f"{took:.2f} s, {grown / 2**20:.0f} MiB",
    )
    assert grown < 64 << 20
    assert took < 5 * max_s
    return message


@pytest.mark.parametrize("name", ["a repeated constant", "doubled in each turn", "nested macros"])
def test_memory_that_a_template_takes_is_not_ours(name: str, measured: Measured) -> None:
    message = refused_within(MEMORY[name], measured, name, max_s=1.5)
    assert any(refusal in message for refusal in REFUSALS), message


@pytest.mark.faults
@pytest.mark.parametrize("name", MEMORY)
def test_memory_of_every_kind(name: str, measured: Measured) -> None:
    message = refused_within(MEMORY[name], measured, name, max_s=2.5)
    assert any(refusal in message for refusal in REFUSALS), message


@pytest.mark.faults
@pytest.mark.parametrize("name", TIME)
def test_time_of_every_kind(name: str, measured: Measured) -> None:
    assert "too long" in refused_within(TIME[name], measured, name, max_s=2.5)


@pytest.mark.parametrize("name", DEEP)
def test_a_template_that_is_too_deep_or_long_is_a_clean_error(name: str) -> None:
    began = time.process_time()
    with pytest.raises(ModelFolderError, match="chat template"):
        ChatTemplate(DEEP[name])
    assert time.process_time() - began < 3


def test_the_loop_goes_on_while_a_template_computes(tmp_path: Path, measured: Measured) -> None:
    """A request with a bomb, and beside it others that are answered."""

    async def scenario() -> tuple[int, float, int]:
        async with serve_script(tmp_path, "Hi!") as (served, _):
            with_template(served, "{% if messages[0].content == 'x' %}" + SLOW + "{% endif %}y")
            assert (await served.chat("z")).status_code == 200
            slow = asyncio.ensure_future(served.chat("x"))
            num_answers, longest = 0, 0.0
            while not slow.done():
                began = time.monotonic()
                assert (await served.client.get("/v1/models")).status_code == 200
                longest = max(longest, time.monotonic() - began)
                num_answers += 1
                await asyncio.sleep(0.01)
            assert (await served.chat("z")).status_code == 200
            return num_answers, longest, (await slow).status_code

    num_answers, longest, status = asyncio.run(scenario())
    measured(
        "template: an answer beside a chat whose template loops for ever",
        promised="≤ 100 ms",
        measured=f"{longest * 1000:.0f} ms, {num_answers} answers meanwhile",
    )
    assert status == 400
    assert num_answers > 10


def test_a_model_whose_template_never_ends_serves_everything_else() -> None:
    began = time.monotonic()
    chat = Chat("tiny", {"default": SLOW, "tool_use": "x"}, wrap(byte_tokenizer()))
    assert time.monotonic() - began < 10, "it is tried once"
    assert "took too long" in " ".join(chat.remarks)
    with pytest.raises(NotSupportedByModel, match="took too long"):
        chat.render(
            HELLO,
            given={},
            add_generation_prompt=True,
            continue_final_message=False,
            max_chars=99,
        )


def test_another_process_takes_the_place_of_one_that_was_ended() -> None:
    template = ChatTemplate("{{ messages[0].content * 2 }}")
    assert not template.is_bounded
    assert template.render({"messages": HELLO}, max_chars=99) == "hellohello"
    for child in psutil.Process().children():
        if any("template_worker" in part for part in child.cmdline()):
            child.kill()
            child.wait()
    assert template.render({"messages": HELLO}, max_chars=99) == "hellohello"


def test_an_event_loop_is_never_made_to_wait() -> None:
    template = ChatTemplate("{{ messages[0].content * 2 }}")
    with pytest.raises(MustWait):
        template.render({"messages": HELLO}, max_chars=99, may_wait=False)


@pytest.mark.parametrize("may_wait", [True, False])
def test_what_takes_long_here_is_done_again_elsewhere(
    monkeypatch: pytest.MonkeyPatch, may_wait: bool
) -> None:
    monkeypatch.setattr(chat_template, "SECONDS_HERE", 0.0)
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert template.is_bounded
    if may_wait:
        assert template.render({"messages": HELLO}, max_chars=99) == "hello"
    else:
        with pytest.raises(MustWait):
            template.render({"messages": HELLO}, max_chars=99, may_wait=False)


@pytest.mark.parametrize("name", BOUNDED)
def test_both_places_render_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    chats: Sequence[list[dict[str, Any]]] = (
        [{"role": "user", "content": "é\ufdd0 \"x\" '</think>' \U0001f389"}],
        [{"role": "system", "content": "s"}, *HELLO, {"role": "assistant", "content": "a"}],
        [{"role": "tool", "content": ""}],
    )
    here, elsewhere = [], []
    for place in (here, elsewhere):
        template = ChatTemplate(BOUNDED[name])
        if place is elsewhere:
            monkeypatch.setattr(template, "_template", None)
        for messages in chats:
            variables = {"messages": messages, "tools": None, "add_generation_prompt": True}
            try:
                place.append(template.render(variables, max_chars=10_000))
            except ShoalError as error:
                place.append(error.message)
    assert here == elsewhere


@pytest.mark.faults
def test_the_other_process_costs_little(measured: Measured) -> None:
    chat = [{"role": "user", "content": "What is the sea? " * 20}] * 4
    source = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    times = []
    for text in (source, source + "{{ 'a' * 1 }}"):
        template = ChatTemplate(text)
        took = []
        for _ in range(500):
            began = time.perf_counter()
            template.render({"messages": chat}, max_chars=10_000)
            took.append(time.perf_counter() - began)
        times.append(statistics.median(took) * 1000)
    measured(
        "template: rendered in the other process, half of the chats",
        promised="≤ 0.3 ms more",
        measured=f"{times[0]:.2f} ms here, {times[1]:.2f} ms there",
    )
    assert times[1] - times[0] < 3 * 0.3


def test_a_chat_asks_no_template_for_its_tools_while_it_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are found out when the model is read."""
    chat = Chat("tiny", {"default": BOUNDED["hermes"]}, wrap(byte_tokenizer()))
    monkeypatch.setattr(ChatTemplate, "render", None)
    assert chat.tool_support.is_native
