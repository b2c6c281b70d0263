"""Validates chat messages and renders them to a prompt with the model's chat template."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.server.api.chat.calls import ToolCall, check_order
from shoal.server.api.chat.tools import ToolFields
from shoal.server.api.generation.fields import without_nulls
from shoal.server.api.generation.number_types import at_most
from shoal.server.api.generation.params import check_prompt_chars
from shoal.server.errors import FieldProblem
from shoal.server.off_loop import INLINE_CHARS, off_loop
from shoal.text.chat_template import MustWait
from shoal.text.chat_tokens import RenderedChat
from shoal.text.task import Prompt, start_prompt
from shoal.text.text_model import TextModel

MAX_TEMPLATE_VARIABLES = 32
MAX_CALLS = 128
_CHARS_OF_MESSAGE = 64
"""An empty message is as much work as so many characters."""
_renderers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="chat-template")
Role = Literal["system", "developer", "user", "assistant", "tool"]


class Message(BaseModel):
    """One message. Content parts other than text are rejected."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Role
    content: str | None = None
    name: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = Field([], max_length=MAX_CALLS, fail_fast=True)
    tool_call_id: str | None = Field(None, min_length=1, max_length=256)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        return without_nulls(value)

    @field_validator("content", mode="before")
    @classmethod
    def _joined_text(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        texts: list[str] = []
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise FieldProblem("may hold text parts only", code="unsupported_parameter")
            if not isinstance(part.get("text"), str):
                raise FieldProblem("parts of type text need a string 'text'")
            texts.append(part["text"])
        return "".join(texts)

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise FieldProblem(
                f"of role {self.role} must have content", code="missing_required_parameter"
            )
        if self.tool_calls and self.role != "assistant":
            raise FieldProblem(f"of role {self.role} cannot have tool_calls")
        if self.tool_call_id is None and self.role == "tool":
            raise FieldProblem(
                "of role tool must have tool_call_id", code="missing_required_parameter"
            )
        if (self.model_extra or {}).get("function_call") is not None:
            raise FieldProblem(
                "has function_call, which is not supported by this server",
                code="unsupported_parameter",
                hint="use tool_calls",
            )
        return self

    @property
    def num_chars(self) -> int:
        """Of all its texts."""
        calls = sum(len(call.function.arguments) for call in self.tool_calls)
        return len(self.content or "") + len(self.reasoning_content or "") + calls


class ChatPrompt(ToolFields):
    """The fields that define a chat prompt; also accepted by /tokenize."""

    messages: Annotated[list[Message], at_most("max_messages")] = Field(
        min_length=1, fail_fast=True
    )
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field({}, max_length=MAX_TEMPLATE_VARIABLES)
    reasoning_effort: str | None = Field(None, max_length=32)

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        return without_nulls(value)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _scalars_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "chat_template" in value:
            raise FieldProblem("may not hold chat_template; templates come with the model")
        for name, item in value.items():
            if not isinstance(item, (str, int, float, bool)):
                raise FieldProblem(f"value of {name[:40]} must be a scalar")
        return value


async def render_chat(prompt: ChatPrompt, model: TextModel, loaded: LoadedModel) -> RenderedChat:
    """The rendered prompt. Raises InvalidRequest and its subclasses."""
    _check_continuation(prompt)
    check_order(prompt.messages)
    tools = prompt.checked_tools()
    size = sum(message.num_chars for message in prompt.messages) + prompt.num_tool_chars
    check_prompt_chars(size, loaded, param="messages")

    def render(*, may_wait: bool) -> RenderedChat:
        messages, template_tools = model.chat.prepare(
            [_template_message(message) for message in prompt.messages], tools
        )
        return model.chat.render(
            messages,
            given=_template_variables(prompt),
            add_generation_prompt=prompt.add_generation_prompt
            and not prompt.continue_final_message,
            continue_final_message=prompt.continue_final_message,
            max_chars=loaded.max_model_len * 64,
            tools=template_tools,
            may_wait=may_wait,
        )

    if size + _CHARS_OF_MESSAGE * len(prompt.messages) <= INLINE_CHARS:
        try:
            return render(may_wait=False)
        except MustWait:
            pass
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_renderers, lambda: render(may_wait=True))


async def chat_token_ids(chat: RenderedChat, model: TextModel) -> list[int]:
    """Token ids of a rendered prompt."""
    # Texts with marks may need a second tokenizer, which is slow to build.
    size = INLINE_CHARS + 1 if chat.has_marks else len(chat.text)
    return await off_loop(size, lambda: model.chat.encode(chat))


async def chat_prompt(prompt: ChatPrompt, model: TextModel, loaded: LoadedModel) -> Prompt:
    """Renders and tokenizes the prompt."""
    chat = await render_chat(prompt, model, loaded)
    token_ids = await chat_token_ids(chat, model)
    return Prompt(start_prompt(model, token_ids, param="messages"), text=chat.text)


def _template_variables(prompt: ChatPrompt) -> dict[str, Any]:
    """Template variables set by the request."""
    given = {**prompt.chat_template_kwargs}
    if prompt.reasoning_effort is not None:
        given["reasoning_effort"] = prompt.reasoning_effort
    return given


def _template_message(message: Message) -> dict[str, Any]:
    optional = {
        "reasoning_content": message.reasoning_content,
        "tool_calls": [call.checked() for call in message.tool_calls],
        "name": message.name,
        "tool_call_id": message.tool_call_id,
    }
    return {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content or "",
        **{name: value for name, value in optional.items() if value},
    }


def _check_continuation(prompt: ChatPrompt) -> None:
    if not prompt.continue_final_message:
        return
    if "add_generation_prompt" in prompt.model_fields_set and prompt.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message exclude each other",
            param="continue_final_message",
        )
    if prompt.messages[-1].role != "assistant":
        raise InvalidRequest(
            "continue_final_message needs an assistant message at the end", param="messages"
        )
    if prompt.messages[-1].tool_calls:
        raise InvalidRequest(
            "continue_final_message cannot continue a message with tool_calls", param="messages"
        )
