"""The messages of a chat as people have them, checked and written as the server takes them.

Roles and fields are those of /v1/chat/completions, so that every row that is accepted can be asked
of the server; ShareGPT's `from` and `value` are read too, and arguments of calls that are objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "function_response": "tool",
}  # fmt: skip
_FUNCTION_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_USED = frozenset({
    "role", "content", "from", "value", "name", "weight", "tool_calls", "tool_call_id",
    "reasoning_content",
})  # fmt: skip


class RowProblem(ValueError):
    """Why a row cannot be learned; names the field, not the row."""


class Messages(NamedTuple):
    """A checked chat."""

    messages: tuple[Mapping[str, Any], ...]
    context_only: frozenset[int]
    """Indices of the assistant's messages of weight 0."""
    unused: frozenset[str]
    """Fields that are not used."""


def read_messages(value: Any, name: str) -> Messages:
    """`name`: the field it came from. Raises RowProblem."""
    value = parsed(value, name)
    if not isinstance(value, list) or not value:
        raise RowProblem(f"`{name}` must be a list of messages")
    messages: list[dict[str, Any]] = []
    context_only: set[int] = set()
    unused: set[str] = set()
    for index, item in enumerate(value):
        where = f"{name}[{index}]"
        if not isinstance(item, Mapping):
            raise RowProblem(f"{where} must be an object with a role and a content")
        fields = {key: each for key, each in item.items() if each is not None}
        messages.append(_message(fields, where))
        if not _is_learned(fields, where):
            context_only.add(index)
        unused |= {f"{name}[].{key}" for key in fields.keys() - _USED}
    _join_calls(messages, name)
    return Messages(tuple(messages), frozenset(context_only), frozenset(unused))


def read_tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tools in OpenAI's form, or their functions alone. Raises RowProblem."""
    value = parsed(value, "tools")
    if not isinstance(value, list):
        raise RowProblem("`tools` must be a list")
    return tuple(_tool(item, f"tools[{index}]") for index, item in enumerate(value))


def text_of(value: Any, name: str) -> str:
    """Raises RowProblem for what is no text, or none that UTF-8 can hold."""
    if not isinstance(value, str):
        raise RowProblem(f"`{name}` must be a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowProblem(f"`{name}` holds half a surrogate pair, which is no text") from error
    return value


def check_ends_with_answer(messages: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raises RowProblem where there is nothing to learn."""
    last = messages[-1]
    if last["role"] != "assistant":
        raise RowProblem(
            f"`{name}` ends with a message of role {last['role']}: there is no answer to learn"
        )
    if len(messages) == 1:
        raise RowProblem(f"`{name}` holds an answer alone: there is nothing that it answers")


def parsed(value: Any, name: str) -> Any:
    """JSON in a text, as tables have it, is read."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowProblem(f"`{name}` must be a list, or a text that is one in JSON") from error


def _message(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "function_call" in fields:
        raise RowProblem(f"{where} has function_call, which no template knows: write tool_calls")
    raw_role = fields.get("role", fields.get("from"))
    role = _ROLES.get(raw_role.lower()) if isinstance(raw_role, str) else None
    if role is None:
        raise RowProblem(f"{where} has the role {raw_role!r}; known are {', '.join(_ROLES)}")
    content = _content(fields.get("content", fields.get("value")), where)
    if raw_role == "function_call":
        calls = parsed(content, f"{where}.value")
        fields = {**fields, "tool_calls": calls if isinstance(calls, list) else [calls]}
        content = ""
    calls = [
        _call(call, f"{where}.tool_calls[{index}]")
        for index, call in enumerate(_list(fields.get("tool_calls", []), f"{where}.tool_calls"))
    ]
    if calls and role != "assistant":
        raise RowProblem(f"{where} has tool_calls, which only the assistant makes")
    if content is None and role != "assistant":
        raise RowProblem(f"{where} of role {role} has no content")
    if role == "assistant" and not calls and not (content or "").strip():
        raise RowProblem(f"{where} is an empty answer")
    optional = {
        "name": _optional_text(fields, "name", where),
        "tool_call_id": _optional_text(fields, "tool_call_id", where) if role == "tool" else None,
        "reasoning_content": _optional_text(fields, "reasoning_content", where),
        "tool_calls": calls,
    }
    given = {key: value for key, value in optional.items() if value}
    return {"role": role, "content": content or "", **given}


def _content(value: Any, where: str) -> str | None:
    """A text, or text parts joined."""
    if value is None:
        return None
    if not isinstance(value, list):
        return text_of(value, f"{where}.content")
    texts = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise RowProblem(f"{where}.content holds a part that is no text")
        texts.append(text_of(part.get("text"), f"{where}.content.text"))
    return "".join(texts)


def _call(value: Any, where: str) -> dict[str, Any]:
    """OpenAI's form, or the function alone. Arguments become JSON text."""
    if not isinstance(value, Mapping):
        raise RowProblem(f"{where} must be an object")
    function = value.get("function", value)
    if not isinstance(function, Mapping) or value.get("type", "function") != "function":
        raise RowProblem(f"{where} is not the call of a function")
    arguments = function.get("arguments", function.get("parameters"))
    if not isinstance(arguments, str):
        if not isinstance(arguments, Mapping | None):
            raise RowProblem(f"{where}.arguments must be an object")
        # A table gives every object all the fields that any has, null where it has none.
        given = {key: each for key, each in (arguments or {}).items() if each is not None}
        arguments = json.dumps(given, ensure_ascii=False)
    return {
        "id": _optional_text(value, "id", where) or "",
        "type": "function",
        "function": {
            "name": _function_name(function, where),
            "arguments": text_of(arguments, f"{where}.arguments"),
        },
    }


def _tool(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RowProblem(f"{where} must be an object")
    function = value.get("function", value)
    if not isinstance(function, Mapping) or value.get("type", "function") != "function":
        raise RowProblem(f"{where} is not a function, the only kind of tool there is")
    name = _function_name(function, where)
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise RowProblem(f"{where}.parameters must be the JSON Schema of an object")
    description = _optional_text(function, "description", where)
    described = {} if description is None else {"description": description}
    return {
        "type": "function",
        "function": {"name": name, **described, "parameters": dict(parameters)},
    }


def _function_name(function: Mapping[str, Any], where: str) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise RowProblem(f"{where}: a function's name has 1 to 64 letters, digits, - and _ only")
    return name


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowProblem(f"{where} must be a list")
    return value


def _optional_text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    return None if value is None else text_of(value, f"{where}.{name}")


def _is_learned(fields: Mapping[str, Any], where: str) -> bool:
    weight = fields.get("weight", 1)
    if weight not in (0, 1):
        raise RowProblem(f"{where}.weight is {weight!r}; known are 1, and 0 for what is only read")
    return bool(weight)


def _join_calls(messages: Sequence[dict[str, Any]], name: str) -> None:
    """Every call has one result right behind its message, unless it ends the chat. Calls without
    an id get one, results without one belong to the calls in order. Raises RowProblem."""
    open_ids: list[str] = []
    numbers = _numbers()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            call_id = message.setdefault("tool_call_id", open_ids[0] if open_ids else "")
            if call_id not in open_ids:
                raise RowProblem(f"{name}[{index}] is the result of no call in the message before")
            open_ids.remove(call_id)
            continue
        if open_ids:
            raise RowProblem(f"{name}[{index}]: a call before it has no result (role tool)")
        for call in message.get("tool_calls", ()):
            call["id"] = call["id"] or next(numbers)
            open_ids.append(call["id"])
        if len(set(open_ids)) < len(open_ids):
            raise RowProblem(f"{name}[{index}].tool_calls has an id twice")


def _numbers() -> Iterator[str]:
    """Ids of nine characters, the length that Mistral's templates demand."""
    number = 0
    while True:
        yield f"call{number:05}"
        number += 1
