"""The tools of a chat: request fields, and what they mean for its prompt, its answer's grammar and
its answer's parts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.server.api.generation.fields import without_nulls
from shoal.server.errors import FieldProblem
from shoal.text.message import MakeParser, PlainParser
from shoal.text.reasoning import (
    MakeCounter,
    ReasoningCounter,
    ReasoningMarks,
    ReasoningParser,
    is_opened,
)
from shoal.text.text_model import TextModel
from shoal.text.tools.grammar import Thinking, tool_grammar
from shoal.text.tools.tool import Tool, ToolChoice

MAX_TOOLS = 128
MAX_TOOL_BYTES = 256 * 1024
FUNCTION_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_LEGACY: dict[str, tuple[Any, ...]] = {"functions": ([],), "function_call": ("none", "auto", {})}


def checked_name(value: str) -> str:
    """A function's name."""
    if not FUNCTION_NAME.fullmatch(value):
        raise FieldProblem("must have 1 to 64 letters, digits, - and _ only")
    return value


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    description: str | None = None
    parameters: dict[str, Any] = Field({}, description="JSON Schema of an object.")
    strict: bool = Field(False, description="Arguments always follow the schema.")

    _name = field_validator("name")(checked_name)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        return without_nulls(value)

    @field_validator("parameters")
    @classmethod
    def _object_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("type", "object") != "object":
            raise FieldProblem("must be the JSON Schema of an object", code="invalid_schema")
        if not isinstance(value.get("properties", {}), dict):
            raise FieldProblem("needs an object as its properties", code="invalid_schema")
        return {"type": "object", **value} if value else value


class FunctionTool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: Function

    @field_validator("type", mode="before")
    @classmethod
    def _functions_only(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "function":
            raise FieldProblem("must be function", code="unsupported_parameter")
        return value


class ToolFields(BaseModel):
    """The fields of a chat about its tools."""

    model_config = ConfigDict(strict=True, extra="allow")

    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = Field(
        None,
        description="none, auto, required, or the function to call. Default: auto with tools.",
    )
    parallel_tool_calls: bool = Field(True, description="May an answer hold several calls?")

    @field_validator("tool_choice", mode="before", json_schema_input_type=str | dict[str, Any])
    @classmethod
    def _choice(cls, value: Any) -> ToolChoice:
        return _tool_choice(value)

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        for name, neutral in _LEGACY.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise UnsupportedParameter(
                    f"{name} is not supported by this server",
                    param=name,
                    hint="use tools and tool_choice",
                )
        names = [tool.function.name for tool in self.tools]
        if len(names) > len(set(names)):
            raise InvalidRequest("tools names a function twice", param="tools")
        if self.num_tool_chars > MAX_TOOL_BYTES:
            raise InvalidRequest(
                f"tools may have at most {MAX_TOOL_BYTES} bytes of JSON", param="tools"
            )
        choice = self.tool_choice
        if choice is not None and choice.mode == "required" and not self.tools:
            raise InvalidRequest("tool_choice needs tools to choose from", param="tool_choice")
        if choice is not None and choice.name is not None and choice.name not in names:
            raise InvalidRequest(
                f"tool_choice names the function {choice.name}, which is not in tools",
                param="tool_choice",
            )
        return self

    def checked_tools(self) -> list[Tool]:
        """The tools that the model learns of: none of them under tool_choice none."""
        if self.choice.mode == "none":
            return []
        return [
            Tool(function.name, function.description, function.parameters, function.strict)
            for function in (tool.function for tool in self.tools)
        ]

    @property
    def choice(self) -> ToolChoice:
        """The choice with its defaults."""
        given = self.tool_choice or ToolChoice("auto" if self.tools else "none")
        return ToolChoice(given.mode, given.name, self.parallel_tool_calls)

    @cached_property
    def num_tool_chars(self) -> int:
        """Size of the tools as JSON."""
        return len(orjson.dumps([tool.model_dump() for tool in self.tools])) if self.tools else 0

    def extra_tool_fields(self) -> list[tuple[str, Any]]:
        """(name, value) of the fields in `tools` that are not in the schema."""
        extras: list[tuple[str, Any]] = []
        for tool in self.tools:
            extras += [(f"tools.{name}", v) for name, v in (tool.model_extra or {}).items()]
            nested = (tool.function.model_extra or {}).items()
            extras += [(f"tools.function.{name}", value) for name, value in nested]
        return extras


def _tool_choice(value: Any) -> ToolChoice:
    if isinstance(value, ToolChoice):
        return value
    match value:
        case "none" | "auto" | "required":
            return ToolChoice(value)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice("required", checked_name(name))
        case {"type": "allowed_tools" | "custom"}:
            raise FieldProblem(
                f"of type {value['type']} is not supported by this server",
                code="unsupported_parameter",
            )
    raise FieldProblem(
        'must be none, auto, required or {"type": "function", "function": {"name": ...}}'
    )


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """How the text of an answer becomes the parts of a message, and what it may look like."""

    make_parser: MakeParser = PlainParser
    shown_tokens: Mapping[int, str] = field(default_factory=dict)
    make_counter: MakeCounter | None = None
    grammar: str | None = None
    """Lark, for calls that are forced or may come."""


def answer_parts(
    fields: ToolFields,
    model: TextModel,
    prompt: str,
    *,
    skip_special_tokens: bool = True,
    content_schema: Mapping[str, Any] | None = None,
) -> AnswerParts:
    """`prompt`: the rendered chat, which may have begun the reasoning. `content_schema`: of an
    answer without calls. Raises InvalidRequest for tools that cannot be forced."""
    tools, choice, marks = fields.checked_tools(), fields.choice, model.chat.reasoning
    thinking: Thinking = "no"
    if marks is not None and not prompt.rstrip().endswith(marks.end):
        thinking = "opened" if is_opened(marks, prompt) else "possible"
    parts = AnswerParts()
    texts: tuple[str, ...] = ()
    if tools:
        tool_format = model.chat.tool_support.format
        names = frozenset(tool.name for tool in tools)
        grammar = tool_grammar(
            tool_format, tools, choice, model.tokenizer,
            reasoning=marks, thinking=thinking, content=content_schema,
        )  # fmt: skip
        parts = AnswerParts(partial(tool_format.parser, names), grammar=grammar)
        texts += tool_format.marks
    if marks is not None and thinking != "no":
        opened = thinking == "opened"
        parts = AnswerParts(
            partial(_reasoning_parser, marks, parts.make_parser, opened),
            make_counter=partial(ReasoningCounter, marks, opened=opened),
            grammar=parts.grammar,
        )
        texts += marks
    if not (texts and skip_special_tokens):
        return parts
    special = model.tokenizer.special_names
    return replace(parts, shown_tokens={i: name for i, name in special.items() if name in texts})


def _reasoning_parser(
    marks: ReasoningMarks, make_inner: MakeParser, opened: bool
) -> ReasoningParser:
    return ReasoningParser(marks, make_inner(), opened=opened)
