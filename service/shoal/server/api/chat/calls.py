"""Calls in past messages: their fields, and in which order calls and results must come."""

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shoal.errors import InvalidRequest
from shoal.server.api.chat.tools import FUNCTION_NAME, checked_name
from shoal.server.errors import FieldProblem
from shoal.text.tools.tool import Call


class CalledFunction(BaseModel):
    """The function of a past call."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str = Field(json_schema_extra={"pattern": f"^{FUNCTION_NAME.pattern}$"})
    arguments: str = Field(description="JSON text.")

    _name = field_validator("name")(checked_name)


class ToolCall(BaseModel):
    """One call of a past message."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction

    @field_validator("type", mode="before")
    @classmethod
    def _functions_only(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "function":
            raise FieldProblem("must be function", code="unsupported_parameter")
        return value

    def checked(self) -> Call:
        return Call(self.id, self.function.name, _parsed(self.function.arguments))


class OrderedMessage(Protocol):
    """What the order of messages depends on."""

    role: Any
    tool_calls: list[ToolCall]
    tool_call_id: str | None


def check_order(messages: Sequence[OrderedMessage]) -> None:
    """Every call has one result, in the messages right behind it. Raises InvalidRequest."""
    open_calls: dict[str, str] = {}
    """Id of a call without result to the path of its message."""
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        if message.role == "tool":
            if open_calls.pop(str(message.tool_call_id), None) is None:
                raise InvalidRequest(
                    f"{path}.tool_call_id is not the id of a call in the message of the assistant "
                    "before it that still needs a result",
                    param=f"{path}.tool_call_id",
                )
            continue
        _check_answered(open_calls)
        for number, call in enumerate(message.tool_calls):
            if call.id in open_calls:
                raise InvalidRequest(
                    f"{path}.tool_calls has an id twice", param=f"{path}.tool_calls.{number}.id"
                )
            open_calls[call.id] = f"{path}.tool_calls"
    _check_answered(open_calls)


def _check_answered(open_calls: dict[str, str]) -> None:
    for call_id, path in open_calls.items():
        raise InvalidRequest(
            f"{path} has the call {call_id[:64]!r}, which needs a message of role tool with its "
            "tool_call_id right behind it",
            param=path,
        )


def _parsed(arguments: str) -> Any:
    """What a model wrote is not always JSON; then it stays the text it was."""
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
