"""One record of a file, in any of the shapes that people have, as a row to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from shoal.train.finetune.messages import (
    Messages,
    RowProblem,
    check_ends_with_answer,
    read_messages,
    read_tools,
    text_of,
)
from shoal.train.finetune.rows import Row

Kind = Literal["chat", "pairs", "text"]

KNOWN_SHAPES = (
    "a `text`, a `prompt` and `completion` (texts or lists of messages), `messages`, "
    "`conversations` (ShareGPT), `instruction` with `input` and `output` (Alpaca), "
    "or a `question` and `answer`"
)
_CHATS = ("messages", "conversations", "conversation")
_PROMPTS = ("prompt", "instruction", "question", "query")
_ANSWERS = ("completion", "response", "answer", "output")
_FURTHER = ("input", "context")
"""Stands behind the prompt, an empty line between."""
_MAX_NAMED_CHARS = 200
_SYSTEMS = ("system", "system_prompt")


class Shaped(NamedTuple):
    """A row, and what was made of the record's keys."""

    row: Row
    kind: Kind
    used: tuple[str, ...]
    """The keys that the row was made of, prompt first."""
    unused: frozenset[str]


def row_of(record: Mapping[str, Any], where: str) -> Shaped:
    """Raises RowProblem that says what is expected. Keys that are null count as not there."""
    record = {key: value for key, value in record.items() if value is not None}
    for name in _CHATS:
        if name in record:
            return _chat(record, name, where)
    if isinstance(record.get("prompt"), list) and "completion" in record:
        return _two_lists(record, where)
    if (keys := _pair_keys(record)) is not None:
        return _pair(record, keys, where)
    if "text" in record:
        text = text_of(record["text"], "text")
        if not text.strip():
            raise RowProblem("`text` is empty")
        return Shaped(Row(where, text=text), "text", ("text",), _unused(record, "text"))
    hint = ""
    if "chosen" in record:
        hint = " (preferences are not learned: write the chosen answer as the `completion`)"
    has = ", ".join(sorted(record))[:_MAX_NAMED_CHARS] or "nothing"
    raise RowProblem(f"expected {KNOWN_SHAPES}; it has {has}{hint}")


def _chat(record: Mapping[str, Any], name: str, where: str) -> Shaped:
    chat = read_messages(record[name], name)
    check_ends_with_answer(chat.messages, name)
    return _chat_row(record, chat, (name,), where)


def _two_lists(record: Mapping[str, Any], where: str) -> Shaped:
    """Prompt and completion as lists of messages: answers in the prompt are not learned."""
    given = read_messages(record["prompt"], "prompt").messages
    both = [*record["prompt"], *_messages_of(record["completion"], "completion")]
    chat = read_messages(both, "prompt and completion")
    if len(both) == len(given):
        raise RowProblem("`completion` is empty")
    check_ends_with_answer(chat.messages, "completion")
    in_prompt = {i for i, message in enumerate(given) if message["role"] == "assistant"}
    chat = chat._replace(context_only=chat.context_only | in_prompt)
    return _chat_row(record, chat, ("prompt", "completion"), where)


def _messages_of(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, list):
        raise RowProblem(f"`{name}` must be a list of messages, as `prompt` is")
    return value


def _chat_row(
    record: Mapping[str, Any], chat: Messages, used: tuple[str, ...], where: str
) -> Shaped:
    for name, instead in (("functions", "tools"), ("function_call", "messages with tool_calls")):
        if record.get(name):
            raise RowProblem(f"`{name}` is not read: write {instead}")
    messages, context_only = chat.messages, chat.context_only
    tools = read_tools(record["tools"]) if record.get("tools") else ()
    variables = record.get("chat_template_kwargs", {})
    if not isinstance(variables, Mapping) or not all(
        isinstance(value, str | int | float | bool | None) for value in variables.values()
    ):
        raise RowProblem("`chat_template_kwargs` must be an object of texts and numbers")
    if system := _system(record):
        if messages[0]["role"] == "system":
            raise RowProblem("`system` stands beside a system message: keep one of them")
        messages = ({"role": "system", "content": system}, *messages)
        context_only = frozenset(index + 1 for index in context_only)
    answers = {i for i, message in enumerate(messages) if message["role"] == "assistant"}
    if answers <= context_only:
        raise RowProblem("every answer has the weight 0: there is nothing to learn")
    row = Row(
        where,
        messages=messages,
        tools=tools,
        context_only=context_only & answers,
        variables={key: value for key, value in variables.items() if value is not None},
    )
    unused = _unused(record, *used, *_SYSTEMS, "tools", "chat_template_kwargs")
    return Shaped(row, "chat", used, unused | chat.unused)


def _pair_keys(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Which keys hold the prompt and the answer. Raises RowProblem where more than one may."""
    for keys in (("prompt", "completion"), ("instruction", "output")):
        if record.keys() >= set(keys):
            return keys
    prompts = [name for name in _PROMPTS if name in record]
    if not prompts and "input" in record:
        prompts = ["input"]
    answers = [name for name in _ANSWERS if name in record]
    if not prompts or not answers:
        return None
    for names, what in ((prompts, "prompt"), (answers, "answer")):
        if len(names) > 1:
            raise RowProblem(f"which is the {what}: {' or '.join(names)}? Keep one of them")
    return prompts[0], answers[0]


def _pair(record: Mapping[str, Any], keys: tuple[str, str], where: str) -> Shaped:
    if record.get("history"):
        raise RowProblem("`history` is not read: write the chat as `messages`")
    prompt, answer = (text_of(record[key], key) for key in keys)
    if not answer.strip():
        raise RowProblem(f"`{keys[1]}` is empty: there is no answer to learn")
    used = [keys[0]]
    if keys != ("prompt", "completion"):
        further = [name for name in _FURTHER if name != keys[0] and record.get(name)]
        if len(further) > 1:
            raise RowProblem(f"which belongs to the prompt: {' or '.join(further)}? Keep one")
        for name in further:
            if (more := text_of(record[name], name)).strip():
                prompt = f"{prompt}\n\n{more}" if prompt else more
                used.append(name)
    used.append(keys[1])
    unused = _unused(record, *used, *_SYSTEMS) - _blank(record, (*_FURTHER, "history"))
    if system := _system(record):
        roles = (("system", system), ("user", prompt), ("assistant", answer))
        messages = tuple({"role": role, "content": text} for role, text in roles)
        return Shaped(Row(where, messages=messages), "pairs", ("system", *used), unused)
    return Shaped(Row(where, prompt=prompt, completion=answer), "pairs", tuple(used), unused)


def _system(record: Mapping[str, Any]) -> str:
    names = [name for name in _SYSTEMS if record.get(name)]
    if len(names) > 1:
        raise RowProblem("`system` and `system_prompt` are both there: keep one of them")
    return text_of(record[names[0]], names[0]) if names else ""


def _unused(record: Mapping[str, Any], *used: str) -> frozenset[str]:
    return frozenset(record.keys() - set(used))


def _blank(record: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    return {name for name in names if name in record and not record[name]}
