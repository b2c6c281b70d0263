"""What a model's chat template makes of tools, found out by rendering small chats with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import InvalidRequest
from shoal.text.tools.formats import ToolFormat
from shoal.text.tools.table import HERMES
from shoal.text.tools.tool import Tool

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None], str]
"""(messages, tools) -> text with the beginning of an answer. Raises InvalidRequest."""

_TOOL = Tool("probe_function", "probe_words", {
    "type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"],
})  # fmt: skip
_USER = {"role": "user", "content": "probe_question"}


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """How tools, calls and results get into a prompt."""

    format: ToolFormat
    """How the model writes calls."""
    is_native: bool = False
    """The template describes tools; else we do, in the system message."""
    writes_calls: bool = False
    """The template writes the calls of past messages; else we do, as their content."""
    writes_results: bool = False
    """The template has a place for messages of role tool; else they become the user's."""
    takes_text_arguments: bool = False
    """Past arguments are JSON text for it, not an object."""
    has_system: bool = True
    """It accepts a system message."""


def find_support(render: Render, tool_format: ToolFormat | None) -> ToolSupport:
    """`tool_format`: the one that the template shows, None for none that is known."""
    system = {"role": "system", "content": "probe_system"}
    has_system = "probe_system" in _rendered(render, [system, _USER])
    tools = [_TOOL.for_template()]
    if tool_format is None or _TOOL.name not in _rendered(render, [_USER], tools):
        return ToolSupport(HERMES, has_system=has_system)
    answer = _rendered(render, _past({"probe_key": "probe_value"}), tools)
    text_answer = _rendered(render, _past('{"probe_key": "probe_value"}'), tools)
    # An object in a template that joins texts fails; a text where it wants an object is escaped.
    takes_text = "probe_value" not in answer and "probe_value" in text_answer
    shown = text_answer if takes_text else answer
    return ToolSupport(
        tool_format,
        is_native=True,
        writes_calls="probe_value" in shown,
        writes_results="probe_result" in shown
        or "probe_result" in _rendered(render, _past(None), tools),
        takes_text_arguments=takes_text,
        has_system=has_system,
    )


def _past(arguments: Any) -> list[Mapping[str, Any]]:
    """A chat with a call and its result; None: without the call."""
    call = {
        "id": "probe1234",
        "type": "function",
        "function": {"name": _TOOL.name, "arguments": arguments},
    }
    answer: dict[str, Any] = {"role": "assistant", "content": ""}
    if arguments is not None:
        answer["tool_calls"] = [call]
    result = {
        "role": "tool",
        "tool_call_id": "probe1234",
        "name": _TOOL.name,
        "content": "probe_result",
    }
    return [_USER, answer, result]


def _rendered(
    render: Render,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """ "" where the template refuses."""
    try:
        return render(messages, tools)
    except InvalidRequest:
        return ""
