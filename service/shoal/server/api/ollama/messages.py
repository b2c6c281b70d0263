"""Ollama's messages in OpenAI's form. Its tool calls have no ids, so they get numbers."""

from typing import Any, Literal

import orjson
from pydantic import Field

from shoal.errors import UnsupportedParameter
from shoal.server.api.dialect import Part


class CalledFunction(Part):
    """What a tool call calls."""

    name: str
    arguments: dict[str, Any] = Field(default={})


class ToolCall(Part):
    """One tool call of an assistant message."""

    function: CalledFunction
    id: str | None = None


class OllamaMessage(Part):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[Any] = Field(default=[])
    tool_calls: list[ToolCall] = Field(default=[])
    tool_name: str | None = None
    tool_call_id: str | None = None


def chat_messages(messages: list[OllamaMessage]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages, and what of them has no effect. Raises UnsupportedParameter."""
    chat: list[dict[str, Any]] = []
    ignored: dict[str, Any] = {}
    open_calls: list[tuple[str, str]] = []  # id and function name of calls without a result yet
    num_calls = 0
    for index, message in enumerate(messages):
        refuse_images(message.images, f"messages.{index}.images")
        for name in message.model_extra or {}:
            ignored[f"messages.{name}"] = True
        translated: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking is not None:
            translated["reasoning_content"] = message.thinking
        if message.role == "tool":
            translated["tool_call_id"] = message.tool_call_id or _answered(open_calls, message)
        if message.tool_calls:
            translated["tool_calls"] = calls = []
            for call in message.tool_calls:
                call_id = call.id or f"call_{num_calls}"
                num_calls += 1
                open_calls.append((call_id, call.function.name))
                calls.append(_tool_call(call_id, call.function))
        chat.append(translated)
    return chat, ignored


def refuse_images(images: list[Any], param: str) -> None:
    """Raises UnsupportedParameter if there are any."""
    if images:
        raise UnsupportedParameter("images are not supported by this server", param=param)


def _answered(open_calls: list[tuple[str, str]], message: OllamaMessage) -> str:
    """Id of the call that a tool message answers: of the tool it names, else the oldest."""
    for number, (_, name) in enumerate(open_calls):
        if message.tool_name in (None, name):
            return open_calls.pop(number)[0]
    return "call_0"


def _tool_call(call_id: str, function: CalledFunction) -> dict[str, Any]:
    arguments = orjson.dumps(function.arguments).decode()
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": function.name, "arguments": arguments},
    }
