"""Past calls and results, and the tools there are, as messages for a model's chat template.

Where the template has no place for one of them, we write it into a message as Hermes models have
it: tools in the system message, calls as the answer's text, results as the user's words.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shoal.text.own_text import OwnText, Part, ours, theirs
from shoal.text.tools.support import ToolSupport
from shoal.text.tools.tool import Call, Tool

_DESCRIPTION = (
    "You may call functions to help with the user's request. Their signatures are inside "
    "<tools></tools>:\n<tools>\n{tools}\n</tools>\n\nTo call a function, answer with a JSON object "
    "of its name and arguments inside <tool_call></tool_call>:\n<tool_call>\n"
    '{{"name": <function name>, "arguments": <arguments as a JSON object>}}\n</tool_call>'
)


class TemplateInput(NamedTuple):
    """What a template gets."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


def template_input(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], support: ToolSupport
) -> TemplateInput:
    """Messages have role, content and, where they have calls, `tool_calls`: a list of Call. A
    result has `tool_call_id`. All are checked."""
    ready: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        calls: Sequence[Call] = message.get("tool_calls") or ()
        names.update((call.id, call.name) for call in calls)
        if calls:
            ready.append(_answer(message, calls, support))
        elif message["role"] == "tool":
            _add_result(ready, message, names, support)
        elif message["role"] == "user" and ready and ready[-1].get("role") == "results":
            ready[-1] = {**message, "content": _joined(ready[-1]["content"], message["content"])}
        else:
            ready.append(dict(message))
    ready = [{**m, "role": "user"} if m["role"] == "results" else m for m in ready]
    if not tools:
        return TemplateInput(ready, None)
    if support.is_native:
        return TemplateInput(ready, [tool.for_template() for tool in tools])
    return TemplateInput(_described(ready, tools, support), None)


def _answer(
    message: Mapping[str, Any], calls: Sequence[Call], support: ToolSupport
) -> dict[str, Any]:
    """A message of the assistant that made calls."""
    if not support.writes_calls:
        before = [theirs(message["content"])] if message["content"] else []
        text = OwnText(*before, *support.format.write(calls).parts)
        return {**{k: v for k, v in message.items() if k != "tool_calls"}, "content": text}
    return {
        **message,
        "tool_calls": [
            {
                "id": support.format.template_id(call.id),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call, support)},
            }
            for call in calls
        ],
    }


def _arguments(call: Call, support: ToolSupport) -> Any:
    if support.takes_text_arguments and not isinstance(call.arguments, str):
        return json.dumps(call.arguments, ensure_ascii=False)
    return call.arguments


def _add_result(
    ready: list[dict[str, Any]],
    message: Mapping[str, Any],
    names: Mapping[str, str],
    support: ToolSupport,
) -> None:
    """The result of a call. Several without a place of their own become one message."""
    if support.writes_results:
        call_id = message["tool_call_id"]
        name = {"name": names[call_id]} if call_id in names else {}
        ready.append({**name, **message, "tool_call_id": support.format.template_id(call_id)})
        return
    text = f"<tool_response>\n{message['content']}\n</tool_response>"
    if ready and ready[-1]["role"] == "results":
        ready[-1]["content"] = _joined(ready[-1]["content"], text)
    else:
        ready.append({"role": "results", "content": text})


def _described(
    messages: list[dict[str, Any]], tools: Sequence[Tool], support: ToolSupport
) -> list[dict[str, Any]]:
    """The messages with the tools in the system message, or in the first where there is none."""
    lines = (json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools)
    text = _DESCRIPTION.format(tools="\n".join(lines))
    first = messages[0]
    if first["role"] == "system":
        return [{**first, "content": _joined(first["content"], text, gap="\n\n")}, *messages[1:]]
    if not support.has_system and first["role"] == "user":
        return [{**first, "content": _joined(text, first["content"], gap="\n\n")}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _joined(before: str, after: str, *, gap: str = "\n") -> str:
    """Two texts; whose their parts are is kept."""
    if not (before and after):
        return before or after
    if not any(isinstance(text, OwnText) for text in (before, after)):
        return before + gap + after
    return OwnText(*_parts(before), ours(gap), *_parts(after))


def _parts(text: str) -> tuple[Part, ...]:
    return text.parts if isinstance(text, OwnText) else (theirs(text),)
