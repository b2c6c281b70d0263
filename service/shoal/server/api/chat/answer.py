"""What an answer may look like, and how its text becomes the parts of a message: by the tools of
the request, the format it asks for, and the reasoning that the model shows.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from shoal.errors import InvalidRequest
from shoal.server.api.chat.tools import ToolFields
from shoal.server.off_loop import off_loop
from shoal.text.grammar.compile import MAX_SECONDS, Compiled, compile_grammar, is_copying
from shoal.text.grammar.source import compact
from shoal.text.grammar.spec import GrammarSpec, JsonObject, JsonSchema, Lark, Schema
from shoal.text.message import MakeParser, PlainParser
from shoal.text.reasoning import (
    MakeCounter,
    ReasoningCounter,
    ReasoningMarks,
    ReasoningParser,
    is_opened,
)
from shoal.text.text_model import TextModel
from shoal.text.tools.grammar import MessageGrammar, Thinking, forced
from shoal.text.tools.schema import ANY_OBJECT
from shoal.text.tools.tool import Tool, ToolChoice


@dataclass(frozen=True, slots=True)
class Answer:
    """How the text of an answer is read and constrained."""

    make_parser: MakeParser = PlainParser
    shown_tokens: Mapping[int, str] = field(default_factory=dict)
    """Special tokens that the parser looks for."""
    make_counter: MakeCounter | None = None
    grammar: Compiled | None = None


async def plan_answer(
    fields: ToolFields,
    model: TextModel,
    prompt: str,
    content: GrammarSpec | None,
    *,
    copy_text: str | None,
    skip_special_tokens: bool,
) -> Answer:
    """`prompt`: the rendered chat, which may have begun the reasoning. `content`: what text
    without calls must look like; `copy_text`: what it may copy from. Raises InvalidRequest."""
    tools, choice, marks = fields.checked_tools(), fields.choice, model.chat.reasoning
    schema = _json_schema(content)
    if content is not None and schema is None:
        if tools:
            raise InvalidRequest(
                f"tools can be combined with a JSON schema, not with {content.param}",
                param=content.param,
                hint="send tool_choice none, or response_format",
            )
        marks = None  # such an answer begins at once
    thinking = _thinking(marks, prompt)
    answer = Answer()
    texts: tuple[str, ...] = ()
    if tools:
        tool_format = model.chat.tool_support.format
        names = frozenset(tool.name for tool in tools)
        answer = replace(answer, make_parser=partial(tool_format.parser, names))
        texts += tool_format.marks
    if marks is not None and thinking != "no":
        opened = thinking == "opened"
        answer = replace(
            answer,
            make_parser=partial(_reasoning_parser, marks, answer.make_parser, opened),
            make_counter=partial(ReasoningCounter, marks, opened=opened),
        )
        texts += marks
    if texts and skip_special_tokens:
        special = model.tokenizer.special_names.items()
        answer = replace(answer, shown_tokens={i: name for i, name in special if name in texts})
    if tools or (schema is not None and thinking != "no"):
        options = None if schema is None else compact(schema)
        wanted = MessageGrammar(
            model.chat.tool_support.format, tools, choice, model.tokenizer, marks, thinking, options
        )
        if (lark := wanted.known()) is None:
            lark = await off_loop(fields.num_tool_chars, wanted.make)
        return replace(answer, grammar=await _compiled(lark, tools, choice, content, model))
    if content is not None:
        return replace(answer, grammar=await compile_grammar(content, model, copy_text))
    return answer


def _json_schema(content: GrammarSpec | None) -> Schema | None:
    """That of an answer in JSON; None for one in another language."""
    match content:
        case JsonObject():
            return ANY_OBJECT
        case JsonSchema(schema) if not is_copying(content):
            return schema
    return None


def _thinking(marks: ReasoningMarks | None, prompt: str) -> Thinking:
    if marks is None or prompt.rstrip().endswith(marks.end):
        return "no"
    return "opened" if is_opened(marks, prompt) else "possible"


def _reasoning_parser(
    marks: ReasoningMarks, make_inner: MakeParser, opened: bool
) -> ReasoningParser:
    return ReasoningParser(marks, make_inner(), opened=opened)


async def _compiled(
    lark: str,
    tools: Sequence[Tool],
    choice: ToolChoice,
    content: GrammarSpec | None,
    model: TextModel,
) -> Compiled:
    """Raises InvalidRequest that names the schema which is not possible."""
    param = content.param if content is not None and not tools else "tools"
    try:
        return await compile_grammar(Lark(lark, param), model)
    except InvalidRequest as error:
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await _check_parts(tools, choice, content, model)
        except TimeoutError:
            pass
        raise error from None


async def _check_parts(
    tools: Sequence[Tool], choice: ToolChoice, content: GrammarSpec | None, model: TextModel
) -> None:
    """Compiles each schema alone. Raises the InvalidRequest of the first that fails."""
    if content is not None:
        await compile_grammar(content, model)
    for index, tool in enumerate(tools):
        schema = forced(tool, choice).schema
        await compile_grammar(JsonSchema(schema, f"tools.{index}.function.parameters"), model)
