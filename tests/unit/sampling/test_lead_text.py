"""Text before calls: everything is allowed, forced and ended as by a matcher that is asked about
each token, and it is asked only where a mark may begin."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken

from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.lead_text import LeadText, Mark, marks_in
from shoal.text.grammar.worker import compile_source
from shoal.text.reasoning import KNOWN_MARKS
from shoal.text.tools.formats import ToolFormat
from shoal.text.tools.grammar import MessageGrammar, Thinking
from shoal.text.tools.table import FORMATS, HERMES, LLAMA, MISTRAL, PYTHONIC
from shoal.text.tools.tool import Tool, ToolChoice
from tests.fakes.text_folder import byte_tokenizer
from tests.unit.sampling.following import END_ID, NUM_IDS, TOKENS, allowed, encode, make, walk
from tests.unit.text.building import wrap

TOOLS = [
    Tool("find", None, {"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("an"),
]
MARK_ID = TOKENS.index(b"::")
"""Stands for a mark where a vocabulary has a token for it."""
MARKED = [format for format in FORMATS if not format.bare_begin]
OTHER_MARKS = replace(MISTRAL, other_begins=("::", "<tool_call>"))


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))


def grammar_of(
    tool_format: ToolFormat,
    *,
    mode: Any = "auto",
    thinking: Thinking = "no",
    content: Any = None,
    as_token: bool = False,
) -> str:
    """`as_token`: the first mark is the token MARK_ID."""
    library = byte_tokenizer()
    if as_token:
        library.add_special_tokens([AddedToken(tool_format.begins[0], special=True)])
    wanted = MessageGrammar(
        tool_format, TOOLS, ToolChoice(mode), wrap(library), KNOWN_MARKS[0], thinking, content
    )
    lark = wanted.make()
    if as_token:
        lark = lark.replace(f"<[{library.token_to_id(tool_format.begins[0])}]>", f"<[{MARK_ID}]>")
    return compile_source({"grammar": lark})["grammar"]


@pytest.mark.parametrize("as_token", [False, True])
@pytest.mark.parametrize("tool_format", [*MARKED, OTHER_MARKS], ids=lambda f: f.begins[-1])
def test_the_same_tokens_are_allowed_forced_and_ended(
    grammars: Grammars, tool_format: ToolFormat, as_token: bool
) -> None:
    grammar = grammar_of(tool_format, as_token=as_token)
    assert isinstance(grammars.compiled(grammar).free_text, LeadText)
    words = range(END_ID + 1, NUM_IDS)
    marks = [
        *encode("".join(tool_format.begins)),
        *(i for i in words if TOKENS[i][:1] in b"<[_t:"),
    ]
    others = [i for i in words if not set(TOKENS[i]) & set(b"<[:")]
    num_free = sum(walk(grammars, grammar, seed, pieces=others * 30) for seed in range(40))
    assert num_free > 300
    for seed in range(40):
        walk(grammars, grammar, seed, pieces=marks * 9)


@pytest.mark.parametrize("how", [{"takes": True, "rejects": True}, {"takes": True}])
def test_a_matcher_is_asked_only_where_a_mark_may_begin(
    grammars: Grammars, how: dict[str, bool]
) -> None:
    grammar = grammar_of(HERMES)
    followed, matcher = make(grammars, grammar, grammars.compiled(grammar).free_text, **how)

    def say(text: str) -> int:
        """How often it was asked."""
        before = matcher.num_calls
        for token_id in encode(text):
            if how.get("rejects"):
                assert followed.admits(token_id)
            else:
                assert token_id in allowed(followed)
            followed.accept(token_id)
        return matcher.num_calls - before

    assert say("a") > 0
    _ = allowed(followed)
    assert say('ny text, \n"quotes" {and} \\ more of it') == 0
    assert say("1 <") > 0
    assert say(" 2, and so ") > 0
    _ = allowed(followed)
    assert say("it goes on") == 0
    assert say("<tool_call>") > 0
    assert followed.take_forced(99) == encode('\n{"name": "')
    assert say('find", "arguments": {"city": "long text in a string"') > 20
    assert not followed.failed


def test_a_mark_may_be_spelled_in_plain_tokens_behind_its_first_character(
    grammars: Grammars,
) -> None:
    grammar = grammar_of(HERMES)
    followed, _ = make(
        grammars, grammar, grammars.compiled(grammar).free_text, takes=True, rejects=True
    )
    for word in (b"the", b" red", b"<tool", b"_call"):
        assert followed.admits(TOKENS.index(word))
        followed.accept(TOKENS.index(word))
    assert followed.admits(TOKENS.index(b">"))
    followed.accept(TOKENS.index(b">"))
    assert followed.take_forced(99) == encode('\n{"name": "')


LARK = json.loads(grammar_of(HERMES))["grammars"][0]["lark_grammar"]


def test_marks_are_those_of_the_grammar() -> None:
    assert marks_in(grammar_of(HERMES)) == (Mark("<tool_call>", None),)
    assert marks_in(grammar_of(HERMES, as_token=True)) == (Mark("<tool_call>", MARK_ID),)
    assert [mark.text for mark in marks_in(grammar_of(OTHER_MARKS))] == [
        "[TOOL_CALLS]",
        "::",
        "<tool_call>",
    ]


@pytest.mark.parametrize(
    "grammar",
    [
        grammar_of(LLAMA),
        grammar_of(PYTHONIC),
        grammar_of(HERMES, mode="required"),
        grammar_of(HERMES, thinking="possible"),
        grammar_of(HERMES, thinking="opened"),
        grammar_of(HERMES, content={"type": "object"}),
        json.dumps({"grammars": [{"json_schema": {"type": "string"}}]}),
        json.dumps({"grammars": [{"lark_grammar": LARK}, {"lark_grammar": LARK}]}),
        json.dumps({"grammars": [{"lark_grammar": LARK, "name": "x"}]}),
        *(
            json.dumps({"grammars": [{"lark_grammar": changed}]})
            for changed in (
                "",
                "start: /a*/",
                LARK.removeprefix("%llguidance {}\n"),
                LARK + "\n%ignore / /",
                LARK + "\nTEXT: /a*/",
                LARK + "\n  | content",
                LARK.replace("(.|", "(a|"),
                LARK.replace("FREE: TEXT", "FREE: /a*/"),
                LARK.replace("FREE: TEXT", "FREE: TEXT & ~/a*/"),
                LARK.replace("answer: content | ", "answer: content | calls | "),
                LARK.replace("answer: content | ", "answer: "),
                LARK.replace("[lazy]", ""),
                LARK.replace('FREE "<tool_call>"', 'FREE "<tool_call>" FREE'),
                LARK.replace('FREE "<tool_call>"', 'FREE ""'),
                LARK.replace('FREE "<tool_call>"', r'FREE "\q"'),
                LARK.replace("lead_0: lead_0_spelled", 'lead_0: lead_0_spelled | "a"'),
                LARK.replace("lead_0", "lead_1"),
            )
        ),
    ],
)
def test_another_grammar_has_none(grammar: str) -> None:
    assert marks_in(grammar) == ()
