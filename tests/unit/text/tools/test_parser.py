"""Reading calls out of messages: every format, every way to cut the text, text that is no call."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.text.message import MessageDelta, MessageParser, joined_tool_calls
from shoal.text.reasoning import KNOWN_MARKS, ReasoningCounter, ReasoningParser
from shoal.text.tools.formats import ToolFormat
from shoal.text.tools.table import FORMATS
from shoal.text.tools.tool import Call

NAMES = frozenset({"f", "get_weather", "a-b"})
BY_NAME = {tool_format.name: tool_format for tool_format in FORMATS}
Parts = tuple[str, str, list[tuple[str | None, str]]]


def parts_of(parser: MessageParser, pieces: list[str]) -> Parts:
    """(content, reasoning, calls as name and arguments) of a message in pieces."""
    deltas: list[MessageDelta] = [parser.push(piece) for piece in pieces]
    deltas.append(parser.finish())
    calls = joined_tool_calls([call for delta in deltas for call in delta.tool_calls])
    assert all(call.id and call.id.startswith("call_") for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    assert bool(calls) == parser.has_tool_calls
    return (
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        [(call.name, call.arguments) for call in calls],
    )


def read(tool_format: ToolFormat, *pieces: str) -> Parts:
    return parts_of(tool_format.parser(NAMES), list(pieces))


CALLS = [
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
     [("f", '{"a": 1}')]),
    ("hermes", '<tool_call>{"arguments": {"a": [{}]}, "name": "a-b"}</tool_call>',
     [("a-b", '{"a": [{}]}')]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 2}"}</tool_call>',
     [("f", '{"a": 2}')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', [("f", '{"a": 1}')]),
    ("hermes", '<tool_call>[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {"b": "}"}}]'
     "</tool_call>", [("f", "{}"), ("f", '{"b": "}"}')]),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n'
     '{"name": "get_weather", "arguments": {"c": "é \\u00e9 \\""}}\n</tool_call>\n',
     [("f", "{}"), ("get_weather", '{"c": "é \\u00e9 \\""}')]),
    ("llama", '{"name": "f", "parameters": {"a": -1.5e3}}', [("f", '{"a": -1.5e3}')]),
    ("llama", '\n <|python_tag|>{"name": "f", "parameters": {}}', [("f", "{}")]),
    ("llama", '{"type": "function", "name": "f", "parameters": {}}; {"name": "a-b", "parameters":'
     ' {"x": null}}', [("f", "{}"), ("a-b", '{"x": null}')]),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}, {"name":'
     ' "f", "arguments": {}}]', [("f", '{"a": 1}'), ("f", "{}")]),
    ("granite", '<|tool_call|>[{"name": "f", "arguments": {"a": true}}]', [("f", '{"a": true}')]),
    ("lfm2", "<|tool_call_start|>[f(a=1, b='x, )y', c=[True, None, -2.5]), get_weather()]"
     "<|tool_call_end|>",
     [("f", '{"a": 1, "b": "x, )y", "c": [true, null, -2.5]}'), ("get_weather", "{}")]),
    ("pythonic", '[f(a={"k": false}, b=("x\\n",))]', [("f", '{"a": {"k": false}, "b": ["x\\n"]}')]),
    ("pythonic", "<|python_start|>[f(a=1)]", [("f", '{"a": 1}')]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "calls"), CALLS)
def test_calls_are_read(name: str, text: str, calls: list[Any]) -> None:
    assert read(BY_NAME[name], text) == ("", "", calls)
    assert all(json.loads(arguments) is not None for _, arguments in calls)


@pytest.mark.parametrize(("name", "text", "calls"), CALLS)
def test_every_character_alone_gives_the_same(name: str, text: str, calls: list[Any]) -> None:
    assert read(BY_NAME[name], *text) == ("", "", calls)


@pytest.mark.parametrize(("name", "text", "calls"), CALLS)
def test_text_before_and_after_calls_is_content(name: str, text: str, calls: list[Any]) -> None:
    tool_format = BY_NAME[name]
    if tool_format.bare_begin:
        assert read(tool_format, f"So: {text}")[2] == ([] if "<|" not in text else calls)
        return
    content, _, found = read(tool_format, f"Let me look.\n\n{text}\n Done.")
    assert found == calls
    assert content == "Let me look." + ("\n Done." if not text.endswith("\n") else "\n\n Done.")


NO_CALLS = [
    "", " ", "\n", "plain", "a < b", "<tool_cal", "<tool_call>", "<tool_call>\n", "[TOOL_CALLS]",
    "[TOOL_CALLS][]", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 7}</tool_call>', '<tool_call>{"name": ["f"]}', "<tool_call>f(1)",
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "no object"}</tool_call>',
    '<tool_call>{"arguments": {"a": 1}}</tool_call>', '{"name": "f"}', '{"name": "Bob"}', "{", "{}",
    '{"a": {"name": "f", "parameters": {}}}', '  {"x": 1}\n', "[1, 2]", "[f]", "[f(1)]", "[f(a)]",
    "[f(a=g())]", "[f(a=1e999)]", "[f(**{})]", "[f(a=1j)]", "[f(", "[", "[[f()]]", "[f(a={1: 2})]",
    "<|tool_call_start|>", "<|tool_call_start|>[f(a=)]<|tool_call_end|>", "<|python_tag|>print(1)",
    "<|tool_call|>none", "[unknown(a=1)]", "[f(a='\\')]", "[f (a=1)]",
]  # fmt: skip


@pytest.mark.parametrize("name", BY_NAME)
def test_text_that_is_no_call_stays_content(name: str) -> None:
    for text in NO_CALLS:
        assert read(BY_NAME[name], text) == (text, "", [])
        assert read(BY_NAME[name], *text) == (text, "", [])


SHARDS = st.sampled_from([
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>", "<tool_",
    "<|tool_call_start|>", "<|tool_call_end|>", '{"name": "f", "arguments": ', '{"name": "f", ',
    '"parameters": {"a": 1}', '{"a": "', '"}', "}", "}}", "[", "]", "[f(a=1", ")", ", ", ";",
    "f(", "'",
    "\n", "hello", " ", '"', "\\", "é", "<think>", "</think>", '{"arguments": {}, "name": "f"}',
    '{"name": "get_weather", "parameters": {"x": [1, "2"]}}',
])  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A message of fragments of calls, and a way to cut it."""
    text = "".join(draw(st.lists(SHARDS, max_size=12)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    edges = [0, *cuts, len(text)]
    return text, [text[a:b] for a, b in pairwise(edges)]


def check_every_format(message: tuple[str, list[str]]) -> None:
    text, pieces = message
    for tool_format in FORMATS:
        whole = read(tool_format, text)
        assert read(tool_format, *pieces) == whole == read(tool_format, *text)
        if not whole[2]:
            assert whole[0] == text


@settings(max_examples=100, deadline=None)
@given(message=messages())
def test_a_message_reads_the_same_however_it_is_cut(message: tuple[str, list[str]]) -> None:
    check_every_format(message)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(message=messages())
def test_many_messages_read_the_same_however_they_are_cut(message: tuple[str, list[str]]) -> None:
    check_every_format(message)


@settings(max_examples=60, deadline=None)
@given(message=messages(), opened=st.booleans())
def test_reasoning_reads_the_same_however_it_is_cut(
    message: tuple[str, list[str]], opened: bool
) -> None:
    text, pieces = message

    def parser() -> MessageParser:
        return ReasoningParser(KNOWN_MARKS[0], BY_NAME["hermes"].parser(NAMES), opened=opened)

    whole = parts_of(parser(), [text])
    assert parts_of(parser(), pieces) == whole == parts_of(parser(), list(text))


def test_only_what_may_be_a_call_is_held_back() -> None:
    parser = BY_NAME["hermes"].parser(NAMES)
    assert parser.push("Hello <b").content == "Hello <b"
    assert parser.push(" 1 <tool").content == " 1"
    assert parser.push("box>").content == " <toolbox>"
    assert parser.push("\n<tool_call>\n{").is_empty
    assert parser.push('"name": "f", "arguments": {').tool_calls[0].arguments == "{"
    assert parser.push('"long": "abc').tool_calls[0].arguments == '"long": "abc'


def test_a_call_that_breaks_off_keeps_what_it_has() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "x'
    assert read(BY_NAME["hermes"], text) == ("", "", [("f", '{"a": "x')])


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_format_writes_it_reads(name: str) -> None:
    tool_format = BY_NAME[name]
    calls = [Call("1", "f", {"a": "x\"y'", "b": [1, None, True]}), Call("2", "get_weather", {})]
    if not tool_format.parallel:
        calls = calls[:1]
    content, _, found = read(tool_format, str(tool_format.write(calls)))
    assert content == ""
    assert [(n, json.loads(a)) for n, a in found] == [(c.name, c.arguments) for c in calls]


@pytest.mark.parametrize(
    ("opened", "text", "expected"),
    [
        (False, "<think>\nhm\n</think>\n\nHi", ("Hi", "hm")),
        (False, "\n<think></think>Hi", ("Hi", "")),
        (False, "Hi <think>x</think>", ("Hi <think>x</think>", "")),
        (False, "<think>hm", ("", "hm")),
        (False, "<thi", ("<thi", "")),
        (True, "hm\n</think>\n\nHi", ("Hi", "hm")),
        (True, "hm </thin k> < x ", ("", "hm </thin k> < x")),
        (True, "</think>Hi", ("Hi", "")),
    ],
)
def test_reasoning_is_told_apart(opened: bool, text: str, expected: tuple[str, str]) -> None:
    parser = ReasoningParser(KNOWN_MARKS[0], BY_NAME["hermes"].parser(NAMES), opened=opened)
    assert parts_of(parser, list(text))[:2] == expected


@pytest.mark.parametrize(
    ("opened", "tokens", "count"),
    [
        (False, [b"<think>", b"a", b"b", b"</think>", b"c"], 4),
        (False, [b"\n", b"<th", b"ink>", b"a", b"</", b"think", b">x", b"c"], 7),
        (False, [b"Hi", b"<think>", b"</think>"], 0),
        (True, [b"a", b"</think>", b"c"], 2),
        (True, [b"a", b"b"], 2),
    ],
)
def test_tokens_of_reasoning_are_counted(opened: bool, tokens: list[bytes], count: int) -> None:
    counter = ReasoningCounter(KNOWN_MARKS[0], opened=opened)
    assert sum(counter.push(token) for token in tokens) == count
