"""The fields of a chat about its tools. What they mean for the answer stands in `answer.py`."""

import re
from functools import cached_property
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.server.api.generation.fields import without_nulls
from shoal.server.errors import FieldProblem
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

    name: str = Field(json_schema_extra={"pattern": f"^{FUNCTION_NAME.pattern}$"})
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

    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = Field(
        None,
        description="none, auto, required, or the function to call. Default: auto with tools.",
    )
    parallel_tool_calls: bool = Field(True, description="May an answer hold several calls?")

    @field_validator("tools", mode="before")
    @classmethod
    def _not_too_large(cls, value: Any) -> Any:
        if isinstance(value, list) and len(orjson.dumps(value)) > MAX_TOOL_BYTES:
            raise FieldProblem(f"may have at most {MAX_TOOL_BYTES} bytes of JSON")
        return value

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
        functions = (tool.function for tool in self.tools)
        return len(orjson.dumps([(f.name, f.description, f.parameters) for f in functions]))

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
