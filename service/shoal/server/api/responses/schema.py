"""Fields of a response request, and their translation to the body of a chat request."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.server.api.chat.tools import MAX_TOOLS
from shoal.server.api.dialect import DialectFields, NeutralValues, Part, given, nested_extras
from shoal.server.api.generation.fields import MAX_INCLUDED, Int
from shoal.server.api.generation.number_types import at_most
from shoal.server.api.responses.items import chat_messages
from shoal.server.errors import FieldProblem

OUR_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "top_logprobs",
    ".json_schema": "",
    ".function.": ".",
}
"""Our fields -> the request's, for errors."""

_STATEFUL = ("previous_response_id", "conversation", "background", "prompt")
_LOGPROBS = "message.output_text.logprobs"
# Extras of tools and models that are not served: there is nothing to include.
_NEVER_THERE = frozenset({"reasoning.encrypted_content", "file_search_call.results",
                          "web_search_call.results", "web_search_call.action.sources",
                          "message.input_image.image_url", "code_interpreter_call.outputs",
                          "computer_call_output.output.image_url"})  # fmt: skip


class TextConfig(Part):
    """How the text of the answer is written."""

    format: dict[str, Any] = Field(default={"type": "text"})

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("type") not in ("text", "json_object", "json_schema"):
            raise FieldProblem("must have the type text, json_object or json_schema")
        return value


class Reasoning(Part):
    """How much the model thinks first."""

    effort: str | None = Field(default=None, max_length=32)


class InputRequest(DialectFields):
    """The prompt of a response: what its token count depends on."""

    model: str | None = Field(None, max_length=256)
    input: Annotated[str | list[Any], at_most("max_messages")]
    instructions: str | None = None
    tools: list[dict[str, Any]] = Field([], max_length=MAX_TOOLS)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    text: TextConfig = TextConfig()

    neutral: ClassVar[NeutralValues] = {
        "truncation": ("disabled",),
        "max_tool_calls": (),
        "service_tier": ("auto", "default"),
        "context_management": ([],),
        "moderation": (),
    }

    @model_validator(mode="before")
    @classmethod
    def _is_stateless(cls, value: Any) -> Any:
        for name in _STATEFUL:
            if isinstance(value, dict) and value.get(name) not in (None, False):
                raise UnsupportedParameter(
                    f"{name} is not supported: this server is stateless and keeps no responses; "
                    "send the whole input with each request",
                    param=name,
                )
        return value

    def chat_body(self) -> dict[str, Any]:
        """The body of the same request to our chat."""
        messages, ignored = chat_messages(self.instructions, self.input)
        body = {
            **{name: value for name, value in self.extras().items() if name not in _STATEFUL},
            **ignored,
            **nested_extras("text", self.text.model_extra),
            **nested_extras("reasoning", self.reasoning.model_extra),
            **given(model=self.model, reasoning_effort=self.reasoning.effort),
            "messages": messages,
        }
        if self.tools:
            body["tools"] = [_tool(tool, index) for index, tool in enumerate(self.tools)]
        if "tool_choice" in self.model_fields_set:
            body["tool_choice"] = _tool_choice(self.tool_choice)
        if not self.parallel_tool_calls:
            body["parallel_tool_calls"] = False
        if (kind := self.text.format["type"]) != "text":
            body["response_format"] = {"type": kind}
        if kind == "json_schema":
            schema = {name: item for name, item in self.text.format.items() if name != "type"}
            body["response_format"]["json_schema"] = schema
        return body


class ResponseRequest(InputRequest):
    """Body of a response request."""

    max_output_tokens: Int | None = Field(None, ge=1, description="Default: the room left.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 = greedy.")
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: Int | None = Field(None, ge=0)
    stream: bool = False
    stream_options: dict[str, Any] = Field({})
    store: bool = False
    include: list[str] = Field([], max_length=MAX_INCLUDED)
    metadata: Annotated[dict[str, str], at_most(16)] = Field({})
    user: str | None = Field(None, max_length=256)

    @field_validator("store")
    @classmethod
    def _stores_nothing(cls, value: bool) -> bool:
        if value:
            raise FieldProblem(
                "cannot be true: this server is stateless and keeps no responses",
                code="unsupported_parameter",
            )
        return value

    @field_validator("include")
    @classmethod
    def _has_no_trace(cls, value: list[str]) -> list[str]:
        if "trace" in value:
            raise FieldProblem(
                "cannot hold trace here",
                code="unsupported_parameter",
                hint="/v1/chat/completions gives traces",
            )
        return value

    @model_validator(mode="after")
    def _streams_options(self) -> Self:
        if self.stream_options and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return _LOGPROBS in self.include or bool(self.top_logprobs)

    def chat_body(self) -> dict[str, Any]:
        options = {name: value for name, value in self.stream_options.items() if value is not False}
        body = {
            **super().chat_body(),
            **nested_extras("stream_options", options),
            **given(max_tokens=self.max_output_tokens, user=self.user),
            **given(temperature=self.temperature, top_p=self.top_p),
            "stream": self.stream,
            "include": [i for i in self.include if i != _LOGPROBS and i not in _NEVER_THERE],
        }
        if self.wants_logprobs:
            body.update(logprobs=True, top_logprobs=self.top_logprobs or 0)
        return body


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    """The tool in the form of a chat. Raises UnsupportedParameter for hosted tools."""
    if tool.get("type") != "function":
        raise UnsupportedParameter(
            f"tools of type {str(tool.get('type'))[:40]!r} are not supported; only functions",
            param=f"tools.{index}.type",
        )
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice
