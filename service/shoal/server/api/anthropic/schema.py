"""Fields of a Messages request, and their translation to the body of a chat request."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from shoal.errors import UnsupportedParameter
from shoal.server.api.anthropic.messages import chat_messages, system_text
from shoal.server.api.chat.tools import MAX_TOOLS
from shoal.server.api.dialect import DialectFields, NeutralValues, Part, given, nested_extras
from shoal.server.api.generation.fields import MAX_STOPS, Int
from shoal.server.api.generation.number_types import at_most
from shoal.server.errors import FieldProblem

OUR_NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "user": "metadata.user_id",
    ".json_schema.schema": ".schema",
    ".function.parameters": ".input_schema",
    ".function.": ".",
}
"""Our fields -> the request's, for errors."""


class OutputConfig(Part):
    """How the answer is written."""

    format: dict[str, Any] | None = None
    effort: str | None = Field(default=None, max_length=32)

    @field_validator("format")
    @classmethod
    def _has_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "json_schema":
            raise FieldProblem("must have the type json_schema")
        if value is not None and not isinstance(value.get("schema"), dict):
            raise FieldProblem("must have a schema, an object")
        return value


class ToolChoice(Part):
    """Which tool must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _tool_has_name(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise FieldProblem("of type tool must have a name", code="missing_required_parameter")
        return self


class CountRequest(DialectFields):
    """A conversation: what count_tokens takes."""

    model: str | None = Field(None, max_length=256)
    messages: Annotated[list[dict[str, Any]], at_most("max_messages")] = Field(
        min_length=1, fail_fast=True
    )
    system: str | list[Any] | None = None
    tools: list[dict[str, Any]] = Field([], max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig = OutputConfig()

    neutral: ClassVar[NeutralValues] = {
        "container": (),
        "mcp_servers": ([],),
        "context_management": ({},),
        "service_tier": ("auto", "standard_only"),
        "inference_geo": (),
        "speed": ("standard",),
    }

    @field_validator("thinking")
    @classmethod
    def _thinks_not(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "disabled":
            raise FieldProblem("can only be disabled", code="unsupported_parameter")
        return value

    def chat_body(self) -> dict[str, Any]:
        """The body of the same request to our chat."""
        messages, ignored = chat_messages(self.messages)
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": system_text(self.system)})
        body = {
            **self.extras(),
            **ignored,
            **given(model=self.model),
            "messages": messages,
            **self._tools(),
            **nested_extras("output_config", self.output_config.model_extra),
        }
        body.pop("cache_control", None)  # a prefix is always cached
        last = messages[-1]
        if last["role"] == "assistant" and last["content"] and not last.get("tool_calls"):
            body["continue_final_message"] = True
        if self.output_config.effort is not None:
            body["reasoning_effort"] = self.output_config.effort
        if (output := self.output_config.format) is not None:
            schema = {"name": "output", "schema": output["schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _tools(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.tools:
            fields["tools"] = [_tool(tool, index) for index, tool in enumerate(self.tools)]
        if (choice := self.tool_choice) is not None:
            named = {"type": "function", "function": {"name": choice.name}}
            words = {"auto": "auto", "any": "required", "none": "none", "tool": named}
            fields["tool_choice"] = words[choice.type]
            if choice.disable_parallel_tool_use:
                fields["parallel_tool_calls"] = False
        return fields


class MessagesRequest(CountRequest):
    """Body of a Messages request."""

    max_tokens: Int = Field(ge=1, description="Most tokens of the answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 = greedy.")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: Int | None = Field(None, ge=-1)
    stop_sequences: list[str] = Field([], max_length=MAX_STOPS)
    stream: bool = False
    metadata: dict[str, Any] = Field({})

    def chat_body(self) -> dict[str, Any]:
        return {
            **super().chat_body(),
            **given(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k),
            **given(user=self.metadata.get("user_id")),
            **nested_extras("metadata", {k: v for k, v in self.metadata.items() if k != "user_id"}),
            "max_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "stream": self.stream,
        }


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    """The tool in OpenAI's form. Raises UnsupportedParameter for tools that a server would run."""
    if tool.get("type", "custom") not in ("custom", None):
        raise UnsupportedParameter(
            f"tools of type {str(tool['type'])[:40]!r} are not supported; only custom ones",
            param=f"tools.{index}.type",
        )
    function = {
        **given(name=tool.get("name"), description=tool.get("description")),
        **given(parameters=tool.get("input_schema"), strict=tool.get("strict")),
    }
    return {"type": "function", "function": function}
