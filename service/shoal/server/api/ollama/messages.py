"""Ollama's messages in OpenAI's form. Its tool calls have no ids, so they get numbers."""

from collections import deque
from typing import Any, Literal

import orjson
from pydantic import Field

from shoal.errors import UnsupportedParameter
from shoal.server.api.chat.messages import MAX_CALLS
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
    tool_calls: list[ToolCall] = Field(default=[], max_length=MAX_CALLS, fail_fast=True)
    tool_name: str | None = None
    tool_call_id: str | None = None


def chat_messages(messages: list[OllamaMessage]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages, and what of them has no effect. Raises UnsupportedParameter."""
    chat: list[dict[str, Any]] = []
    ignored: dict[str, Any] = {}
    open_calls = _OpenCalls()
    num_calls = 0
    for index, message in enumerate(messages):
        refuse_images(message.images, f"messages.{index}.images")
        for name in message.model_extra or {}:
            ignored[f"messages.{name}"] = True
        translated: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking is not None:
            translated["reasoning_content"] = message.thinking
        if message.role == "tool":
            call_id = message.tool_call_id or open_calls.answered(message.tool_name)
            translated["tool_call_id"] = call_id
        if message.tool_calls:
            translated["tool_calls"] = calls = []
            for call in message.tool_calls:
                call_id = call.id or f"call_{num_calls}"
                num_calls += 1
                open_calls.add(call_id, call.function.name)
                calls.append(_tool_call(call_id, call.function))
        chat.append(translated)
    return chat, ignored


def refuse_images(images: list[Any], param: str) -> None:
    """Raises UnsupportedParameter if there are any."""
    if images:
        raise UnsupportedParameter("images are not supported by this server", param=param)


class _OpenCalls:
    """The calls of a chat, and which of them have a result."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._open_by_name: dict[str, deque[int]] = {}
        """Places in `_ids`, by name of the function."""
        self._open: dict[int, str] = {}
        """Place to name, oldest first."""

    def add(self, call_id: str, name: str) -> None:
        place = len(self._ids)
        self._ids.append(call_id)
        self._open_by_name.setdefault(name, deque()).append(place)
        self._open[place] = name

    def answered(self, name: str | None) -> str:
        """Id of the call that a tool message answers: of the tool it names, else the oldest."""
        name = next(iter(self._open.values()), None) if name is None else name
        if not (places := self._open_by_name.get(name or "")):
            return "call_0"
        place = places.popleft()
        del self._open[place]
        return self._ids[place]


def _tool_call(call_id: str, function: CalledFunction) -> dict[str, Any]:
    arguments = orjson.dumps(function.arguments).decode()
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": function.name, "arguments": arguments},
    }
