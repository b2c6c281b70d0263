"""Input items of a response in the form of chat messages."""

from collections.abc import Mapping
from typing import Any

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.server.api.dialect import joined_text
from shoal.server.errors import FieldProblem

_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_ROLES = ("user", "assistant", "system", "developer")


def chat_messages(
    instructions: str | None, items: str | list[Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages, and what of the items has no effect. Raises InvalidRequest."""
    chat: list[dict[str, Any]] = []
    ignored: dict[str, Any] = {}
    if instructions is not None:
        chat.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    for index, item in enumerate(items):
        param = f"input.{index}"
        if not isinstance(item, dict):
            raise InvalidRequest("input items must be objects", param=param)
        _add(chat, item, param, ignored)
    return chat, ignored


def _add(
    chat: list[dict[str, Any]], item: dict[str, Any], param: str, ignored: dict[str, Any]
) -> None:
    """Appends an item to the chat."""
    match item.get("type") or "message":
        case "message":
            if item.get("role") not in _ROLES:
                raise InvalidRequest(f"role must be one of {', '.join(_ROLES)}", param=param)
            text = _text(item.get("content"), f"{param}.content")
            if item["role"] == "assistant" and _is_empty_turn(chat):
                chat[-1]["content"] = text
            else:
                chat.append({"role": item["role"], "content": text})
        case "function_call":
            # The calls of one turn follow its message as items of their own.
            if not chat or chat[-1]["role"] != "assistant":
                chat.append({"role": "assistant", "content": None})
            chat[-1].setdefault("tool_calls", []).append(_tool_call(item, param))
        case "function_call_output":
            call_id = _string(item, "call_id", param)
            output = _text(item.get("output"), f"{param}.output")
            chat.append({"role": "tool", "tool_call_id": call_id, "content": output})
        case "reasoning" if item.get("content"):
            thought = _text(item["content"], f"{param}.content", {"reasoning_text": "text"})
            chat.append({"role": "assistant", "content": None, "reasoning_content": thought})
        case "reasoning":
            ignored["input.reasoning"] = True  # a summary, or what is encrypted
        case "item_reference":
            raise UnsupportedParameter(
                "items cannot be referred to: this server is stateless and keeps none; "
                "send them in full",
                param=param,
            )
        case kind:
            raise UnsupportedParameter(
                f"input items of type {str(kind)[:40]!r} are not supported", param=param
            )


def _tool_call(item: dict[str, Any], param: str) -> dict[str, Any]:
    function = {name: _string(item, name, param) for name in ("name", "arguments")}
    return {"id": _string(item, "call_id", param), "type": "function", "function": function}


def _string(item: dict[str, Any], name: str, param: str) -> str:
    if not isinstance(value := item.get(name), str):
        raise InvalidRequest(f"{name} must be a string", param=f"{param}.{name}")
    return value


def _is_empty_turn(chat: list[dict[str, Any]]) -> bool:
    """Does it end in the reasoning of a message that is still to come?"""
    return bool(chat) and "reasoning_content" in chat[-1] and chat[-1]["content"] is None


def _text(parts: Any, param: str, types: Mapping[str, str] = _TEXTS) -> str:
    try:
        return joined_text(parts, types)
    except FieldProblem as problem:
        raise InvalidRequest(f"{param} {problem}", code=problem.code, param=param) from problem
