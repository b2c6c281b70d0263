"""Chats as the base's template writes them, and which of their text is learned.

What is learned of an answer is what the server would let the model write: from the end of the
prompt that the server makes of the messages before it, to the first end token. Mostly all answers
of a chat are learned in one text. An answer that looks otherwise when it is the newest (a template
may drop the reasoning of earlier turns, or end the last one alone) is learned in a text of its own:
the chat up to it. Where the template has generation blocks, these say what is learned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.text.chat_tokens import RenderedChat, Span
from shoal.text.reasoning import is_opened
from shoal.text.text_model import TextModel
from shoal.text.tools.history import TemplateInput
from shoal.text.tools.tool import Call, Tool
from shoal.train.finetune.rows import Row

MAX_CHARS = 1 << 24
"""Of a rendered chat; what is too long for the model is found out by its tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer in a text."""

    prompt: RenderedChat
    """What the server feeds the model before it; a beginning of the text."""
    through: RenderedChat
    """The text up to the answer's end."""
    has_end: bool
    """Does an end token close the answer?"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A text of one chat to be made into token ids."""

    where: str
    text: RenderedChat
    turns: tuple[Turn, ...] = ()
    """In order; the last ends the text."""
    spans: tuple[Span, ...] = ()
    """What is learned, instead of turns: generation blocks."""


class ChatDrafts:
    """Renders chats for learning."""

    def __init__(self, model: TextModel) -> None:
        self._chat = model.chat
        self._end_names = {
            token.content
            for token_id, token in model.tokenizer.added_tokens.items()
            if token_id in model.end_token_ids
        }

    def drafts(self, row: Row) -> Iterator[Draft]:
        """The texts of a chat. Raises InvalidRequest where the template refuses it."""
        learned = [
            index
            for index, message in enumerate(row.messages)
            if message["role"] == "assistant" and index and index not in row.context_only
        ]
        messages = row.messages[: learned[-1] + 1] if learned else ()
        if not messages:
            return
        whole = self.render(row, messages)
        if spans := self._generated(row, messages, learned, whole):
            yield Draft(row.where, whole, spans=spans)
            return
        inside: list[Turn] = []
        for index in learned:
            is_last = index == learned[-1]
            through = whole if is_last else self.render(row, messages[: index + 1])
            prompt = self.render(row, messages[:index], is_prompt=True)
            if not through.text.startswith(prompt.text):
                through = self._behind(prompt, through, messages[index])
            turn = self._turn(prompt, through)
            if whole.text.startswith(through.text):
                inside.append(turn)
            else:
                where = row.where if len(learned) == 1 else f"{row.where}, message {index + 1}"
                yield Draft(where, turn.through, (turn,))
        if inside:
            yield Draft(row.where, inside[-1].through, tuple(inside))

    def render(
        self, row: Row, messages: Sequence[Mapping[str, Any]], *, is_prompt: bool = False
    ) -> RenderedChat:
        """As the server does; `is_prompt`: with the beginning of an answer."""
        ready, tools = self._prepared(row, messages)
        return self._chat.render(
            ready,
            given=row.variables,
            add_generation_prompt=is_prompt,
            continue_final_message=False,
            max_chars=MAX_CHARS,
            tools=tools,
        )

    def _prepared(self, row: Row, messages: Sequence[Mapping[str, Any]]) -> TemplateInput:
        return self._chat.prepare([_checked(m) for m in messages], [_tool(t) for t in row.tools])

    def _turn(self, prompt: RenderedChat, through: RenderedChat) -> Turn:
        """Without what stands behind the end token: the server does not let the model write it."""
        for start, end in through.controls:
            if start >= len(prompt.text) and through.text[start:end] in self._end_names:
                return Turn(prompt, cut(through, end), has_end=True)
        return Turn(prompt, cut(through, len(through.text.rstrip())), has_end=False)

    def _generated(
        self,
        row: Row,
        messages: Sequence[Mapping[str, Any]],
        learned: Sequence[int],
        whole: RenderedChat,
    ) -> tuple[Span, ...]:
        """Generation blocks of the learned messages; none where they cannot be told apart."""
        ready, tools = self._prepared(row, messages)
        found = self._chat.generated(ready, given=row.variables, max_chars=MAX_CHARS, tools=tools)
        if found is None or found[0] != whole.text:
            return ()
        spans = [span for span in found[1] if span.end > span.start]
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if answers == learned:
            return tuple(spans)
        if len(spans) != len(answers):
            return ()
        return tuple(span for span, i in zip(spans, answers, strict=True) if i in learned)

    def _behind(
        self, prompt: RenderedChat, through: RenderedChat, message: Mapping[str, Any]
    ) -> RenderedChat:
        """The answer behind the server's prompt, where the template writes a past answer in another
        way than it begins a new one."""
        pairs = enumerate(zip(prompt.text, through.text, strict=False))
        shorter = min(len(prompt.text), len(through.text))
        common = next((at for at, (a, b) in pairs if a != b), shorter)
        content = message["content"].strip()
        marks = self._chat.reasoning
        reasoning = message.get("reasoning_content", "")
        if marks and marks.end in content:
            reasoning, _, content = content.partition(marks.end)
            reasoning, content = reasoning.strip().removeprefix(marks.begin), content.strip()
        begins = through.text.rfind(content) if content else -1
        rest = cut_front(through, min(common, begins) if begins >= 0 else common)
        if marks and is_opened(marks, prompt.text) and marks.end not in rest.text:
            before = f"{reasoning.strip()}\n"
            end = Span(len(before), len(before) + len(marks.end))
            closing = RenderedChat(
                f"{before}{marks.end}\n\n", [end] if self._chat.is_control(marks.end) else []
            )
            rest = joined(closing, rest)
        return joined(prompt, rest)


def joined(first: RenderedChat, second: RenderedChat) -> RenderedChat:
    """Two texts as one. Control tokens that they spell together are none: so it has marks."""
    size = len(first.text)
    controls = [Span(start + size, end + size) for start, end in second.controls]
    return RenderedChat(first.text + second.text, [*first.controls, *controls], has_marks=True)


def cut(chat: RenderedChat, end: int) -> RenderedChat:
    """The text up to `end`, code points."""
    controls = [span for span in chat.controls if span.end <= end]
    return replace(chat, text=chat.text[:end], controls=controls)


def cut_front(chat: RenderedChat, start: int) -> RenderedChat:
    """The text from `start` on, code points."""
    controls = [Span(a - start, b - start) for a, b in chat.controls if a >= start]
    return replace(chat, text=chat.text[start:], controls=controls)


def _checked(message: Mapping[str, Any]) -> dict[str, Any]:
    """As the server has it after its checks: calls with their arguments read."""
    calls = [
        Call(call["id"], call["function"]["name"], _arguments(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _arguments(text: str) -> Any:
    """What a model wrote is not always JSON; then it stays the text it was."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _tool(tool: Mapping[str, Any]) -> Tool:
    function = tool["function"]
    parameters = function["parameters"]
    return Tool(
        function["name"],
        function.get("description"),
        {"type": "object", **parameters} if parameters else {},
    )
