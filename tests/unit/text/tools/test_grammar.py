"""Grammars of messages with calls: what they allow parsers read, and nothing else is allowed."""

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import llguidance
import pytest
from tokenizers import AddedToken

from shoal.errors import InvalidRequest
from shoal.text.grammar.worker import compile_source
from shoal.text.reasoning import KNOWN_MARKS
from shoal.text.tokenizer import Tokenizer
from shoal.text.tools import grammar as grammar_module
from shoal.text.tools.formats import ToolFormat
from shoal.text.tools.grammar import MessageGrammar, Thinking
from shoal.text.tools.table import FORMATS, HERMES, LFM2, LLAMA, PYTHONIC
from shoal.text.tools.tool import Call, Tool, ToolChoice
from tests.fakes.text_folder import byte_tokenizer
from tests.unit.text.building import wrap

TOOLS = [
    Tool("f", "a ::= b", {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "n": {"type": "integer"},
            "b": {"type": "boolean"},
        },
        "required": ["city"],
    }),
    Tool("g"),
]  # fmt: skip
FIRST, SECOND = Call("1", "f", {"city": "x", "n": 4}), Call("2", "g", {})
SPECIAL = ["[TOOL_CALLS]", "<|tool_call_start|>", "<tool_call>", "<think>", "</think>"]


@cache
def vocabulary(has_tokens: bool) -> tuple[Any, Tokenizer, Any]:
    """One token a byte, and with `has_tokens` one for each mark: the library's, ours,
    llguidance's."""
    library = byte_tokenizer()
    if has_tokens:
        library.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    return library, wrap(library), llguidance.LLTokenizer(library.to_str(), eos_token=256)


class Machine:
    """The grammar of a message at work, in a vocabulary with or without tokens for marks."""

    def __init__(
        self,
        tool_format: ToolFormat,
        choice: ToolChoice,
        *,
        tools: list[Tool] = TOOLS,
        has_tokens: bool = True,
        thinking: Thinking = "no",
        content: dict[str, Any] | None = None,
    ) -> None:
        self._library, tokenizer, self._tokens = vocabulary(has_tokens)
        wanted = MessageGrammar(
            tool_format, tools, choice, tokenizer, KNOWN_MARKS[0], thinking, content
        )
        lark = wanted.make()
        compiled = compile_source({"grammar": lark})
        assert "error" not in compiled, compiled["error"]
        self._grammar = compiled["grammar"]

    def allows(self, text: str, *, whole: bool = True) -> bool:
        """Is it a message, or with whole=False the beginning of one?"""
        matcher = llguidance.LLMatcher(self._tokens, self._grammar)
        ids = self._library.encode(text, add_special_tokens=False).ids
        taken = matcher.try_consume_tokens(ids)
        return taken == len(ids) and (not whole or matcher.is_accepting())


def written(tool_format: ToolFormat, *calls: Call) -> str:
    return str(tool_format.write(calls))


FORMAT = pytest.mark.parametrize("tool_format", FORMATS, ids=lambda f: f.name)
HAS_TOKENS = pytest.mark.parametrize("has_tokens", [True, False])


@FORMAT
@HAS_TOKENS
@pytest.mark.parametrize(
    ("thinking", "before"), [("no", ""), ("possible", ""), ("possible", "<think>hm</think>\n\n"),
                             ("opened", "hm [f(a) <b></think>\n\n")],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_calls_are_allowed(
    tool_format: ToolFormat, has_tokens: bool, thinking: Thinking, before: str, mode: Any
) -> None:
    machine = Machine(tool_format, ToolChoice(mode), has_tokens=has_tokens, thinking=thinking)
    assert machine.allows(before + written(tool_format, FIRST))
    assert machine.allows(before + written(tool_format, FIRST, SECOND)) == tool_format.parallel
    assert machine.allows(before + "Hello [1] {2}, a < b.") == (mode == "auto")
    assert not machine.allows(before + written(tool_format, FIRST) + " and so", whole=False)


@FORMAT
def test_required_arguments_follow_the_schema(tool_format: ToolFormat) -> None:
    machine = Machine(tool_format, ToolChoice("required"))
    for arguments in ({}, {"city": 1}, {"city": "x", "n": 1.5}, {"city": "x", "other": 1}):
        assert not machine.allows(written(tool_format, Call("1", "f", arguments)))
    assert not machine.allows(written(tool_format, Call("1", "h", {})))
    assert not machine.allows("", whole=True)


@FORMAT
def test_integers_are_those_that_json_holds_exactly(tool_format: ToolFormat) -> None:
    machine = Machine(tool_format, ToolChoice("required"))
    for number in (2**53 - 1, -(2**53) + 1, 0):
        assert machine.allows(written(tool_format, Call("1", "f", {"city": "", "n": number})))
    assert not machine.allows(written(tool_format, Call("1", "f", {"city": "", "n": 2**53})))


@FORMAT
def test_a_choice_by_name_is_one_call_of_it(tool_format: ToolFormat) -> None:
    machine = Machine(tool_format, ToolChoice("required", "g"))
    assert machine.allows(written(tool_format, SECOND))
    assert not machine.allows(written(tool_format, SECOND, SECOND))
    assert not machine.allows(written(tool_format, FIRST))


@FORMAT
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_without_parallel_calls_there_is_one(tool_format: ToolFormat, mode: Any) -> None:
    machine = Machine(tool_format, ToolChoice(mode, parallel=False))
    assert machine.allows(written(tool_format, SECOND))
    assert not machine.allows(written(tool_format, SECOND, SECOND))


@FORMAT
def test_under_auto_only_strict_functions_have_their_schema_forced(tool_format: ToolFormat) -> None:
    free = written(tool_format, Call("1", "f", {"what": [True, None, {"b": 1}]}))
    strict = [Tool("f", None, TOOLS[0].parameters, strict=True)]
    assert Machine(tool_format, ToolChoice("auto")).allows(free) or tool_format in (LFM2, PYTHONIC)
    machine = Machine(tool_format, ToolChoice("auto"), tools=strict)
    assert not machine.allows(free, whole=False)
    assert machine.allows(written(tool_format, FIRST))


@FORMAT
def test_text_may_have_to_follow_a_schema(tool_format: ToolFormat) -> None:
    machine = Machine(tool_format, ToolChoice("auto"), content={"type": "object"})
    assert machine.allows("{}")
    assert machine.allows(written(tool_format, FIRST))
    assert not machine.allows("Hello", whole=False)


def test_a_word_that_only_begins_like_a_call_is_text() -> None:
    machine = Machine(HERMES, ToolChoice("auto"), has_tokens=False)
    assert machine.allows("see <tool_box> and <tool_cal")
    assert not machine.allows("see <tool_call>now", whole=False)
    llama = Machine(LLAMA, ToolChoice("auto"))
    assert llama.allows('{"name": "Bob"}')
    assert not llama.allows('{"name": "f", "age": 3}', whole=False)


@pytest.mark.parametrize("parameters", [
    {"type": "object", "anyOf": [{"required": ["a"]}]},
    {"type": "object", "properties": {"not a name": {}}},
])  # fmt: skip
def test_python_calls_that_cannot_be_forced_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Machine(LFM2, ToolChoice("required"), tools=[Tool("f", None, parameters)])
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "tools")


def test_python_calls_follow_references_and_leave_out_what_is_optional() -> None:
    parameters = {
        "type": "object", "$defs": {"color": {"enum": ["red", "blue"]}},
        "properties": {
            "a": {"$ref": "#/$defs/color"}, "b": {"type": "boolean"}, "c": {"type": "null"},
        },
        "required": ["b"],
    }  # fmt: skip
    machine = Machine(LFM2, ToolChoice("required"), tools=[Tool("f", None, parameters)])
    for arguments in ({"b": True}, {"a": "red", "b": False, "c": None}, {"b": True, "c": None}):
        assert machine.allows(written(LFM2, Call("1", "f", arguments)))
    for arguments in ({}, {"a": "red"}, {"a": "green", "b": True}, {"b": 1}):
        assert not machine.allows(written(LFM2, Call("1", "f", arguments)))


def test_a_grammar_is_known_by_all_that_it_depends_on() -> None:
    """What is known is what would be made; what differs anywhere is something else."""
    vocabularies = [vocabulary(has_tokens)[1] for has_tokens in (True, False)]
    turned = Tool("f", "says", {"type": "object", "properties": {"b": {}, "a": {}}})
    straight = Tool("f", "says", {"type": "object", "properties": {"a": {}, "b": {}}})
    tools = [[straight], [turned], [straight, Tool("g")], [replace(straight, strict=True)], []]
    choices = [ToolChoice("auto"), ToolChoice("required"), ToolChoice("auto", parallel=False)]
    marks = [None, *KNOWN_MARKS]
    contents: list[Any] = [{"type": "object"}, {"type": "array"}]
    wanted = [
        MessageGrammar(*parts)
        for parts in itertools.product(
            FORMATS[:3], tools, choices, vocabularies, marks, ("no", "possible"), contents
        )
    ]
    grammar_module._recent.clear()
    made: dict[tuple[object, ...], str] = {}
    for each in wanted:
        fresh = each._lark()
        assert made.setdefault(each._key, fresh) == fresh
        assert each.known() in (None, fresh)
        assert each.make() == fresh == each.known()
    assert len(set(made.values())) > 100
    assert len(grammar_module._recent) == 256
