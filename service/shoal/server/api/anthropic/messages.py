"""Anthropic's messages in OpenAI's form: content blocks become texts, tool calls and results."""

from typing import Any

import orjson

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.server.api.dialect import joined_text
from shoal.server.errors import FieldProblem

_TEXT = {"text": "text"}
_JOINED = {"content": "\n", "reasoning_content": ""}
"""Fields whose texts are collected, and what stands between them."""


def chat_messages(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages, and what of them has no effect. Neighbours of one role become one, as
    Anthropic's API documents. Raises InvalidRequest."""
    chat: list[dict[str, Any]] = []
    ignored: dict[str, Any] = {}
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise InvalidRequest(
                "role must be user or assistant; a system prompt goes into system",
                param=f"messages.{index}.role",
            )
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise InvalidRequest(
                "content must be a string or an array of content blocks",
                param=f"messages.{index}.content",
            )
        for number, block in enumerate(content):
            _add(chat, role, block, f"messages.{index}.content.{number}", ignored)
    if not chat:
        raise InvalidRequest("messages have no content", param="messages")
    for turn in chat:
        for field, between in _JOINED.items():
            if isinstance(texts := turn.get(field), list):
                turn[field] = between.join(texts)
    return chat, ignored


def system_text(system: str | list[Any]) -> str:
    """The text of a system prompt. Raises InvalidRequest."""
    return _text(system, "system")


def _add(
    chat: list[dict[str, Any]],
    role: str,
    block: dict[str, Any],
    param: str,
    ignored: dict[str, Any],
) -> None:
    kind = block.get("type")
    match role, kind:
        case _, "text":
            _add_text(chat, role, _text([block], param))
        case "assistant", "tool_use":
            _turn(chat).setdefault("tool_calls", []).append(_tool_call(block, param))
        case "assistant", "thinking":
            thinking = _string(block, "thinking", param)
            _turn(chat).setdefault("reasoning_content", []).append(thinking)
        case "assistant", "redacted_thinking":
            ignored[f"messages.content.{kind}"] = True
        case "user", "tool_result":
            if "is_error" in block:
                ignored["messages.content.is_error"] = block["is_error"]
            chat.append(
                {
                    "role": "tool",
                    "tool_call_id": _string(block, "tool_use_id", param),
                    "content": _text(block.get("content") or "", f"{param}.content"),
                }
            )
        case _:
            raise UnsupportedParameter(
                f"content blocks of type {str(kind)[:40]!r} are not supported in a message of "
                f"the {role}",
                param=param,
            )


def _add_text(chat: list[dict[str, Any]], role: str, text: str) -> None:
    last = chat[-1] if chat else None
    if last is None or last["role"] != role or last.get("tool_calls"):
        chat.append({"role": role, "content": [text]})
    elif last["content"] is None:
        last["content"] = [text]
    else:
        last["content"].append(text)


def _turn(chat: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end of the chat."""
    if not chat or chat[-1]["role"] != "assistant":
        chat.append({"role": "assistant", "content": None})
    return chat[-1]


def _tool_call(block: dict[str, Any], param: str) -> dict[str, Any]:
    if not isinstance(arguments := block.get("input"), dict):
        raise InvalidRequest("input must be an object", param=f"{param}.input")
    function = {
        "name": _string(block, "name", param),
        "arguments": orjson.dumps(arguments).decode(),
    }
    return {"id": _string(block, "id", param), "type": "function", "function": function}


def _string(block: dict[str, Any], name: str, param: str) -> str:
    if not isinstance(value := block.get(name), str):
        raise InvalidRequest(f"{name} must be a string", param=f"{param}.{name}")
    return value


def _text(parts: Any, param: str) -> str:
    try:
        return joined_text(parts, _TEXT, between="\n")
    except FieldProblem as problem:
        raise InvalidRequest(f"{param} {problem}", code=problem.code, param=param) from problem
