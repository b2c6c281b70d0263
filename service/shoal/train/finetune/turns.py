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

from shoal.text.chat import Chat
from shoal.text.chat_tokens import RenderedChat, Span
from shoal.text.reasoning import is_opened
from shoal.text.text_model import TextModel
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
        if not learned:
            return
        chat = _RowChat(self._chat, row, learned[-1] + 1)
        whole = chat.rendered(chat.size)
        if spans := self._generated(chat, learned, whole):
            yield Draft(row.where, whole, spans=spans)
            return
        inside: list[Turn] = []
        for index in learned:
            is_last = index == learned[-1]
            through = whole if is_last else chat.rendered(index + 1)
            prompt = chat.rendered(index, is_prompt=True)
            if not through.text.startswith(prompt.text):
                through = self._behind(prompt, through, row.messages[index])
            turn = self._turn(prompt, through)
            if whole.text.startswith(through.text):
                inside.append(turn)
            else:
                where = row.where if len(learned) == 1 else f"{row.where}, message {index + 1}"
                yield Draft(where, turn.through, (turn,))
        if inside:
            yield Draft(row.where, inside[-1].through, tuple(inside))

    def _turn(self, prompt: RenderedChat, through: RenderedChat) -> Turn:
        """Without what stands behind the end token: the server does not let the model write it."""
        for start, end in through.controls:
            if start >= len(prompt.text) and through.text[start:end] in self._end_names:
                return Turn(prompt, cut(through, end), has_end=True)
        return Turn(prompt, cut(through, len(through.text.rstrip())), has_end=False)

    def _generated(
        self, chat: _RowChat, learned: Sequence[int], whole: RenderedChat
    ) -> tuple[Span, ...]:
        """Generation blocks of the learned messages; none where they cannot be told apart."""
        found = chat.generated()
        if found is None or found[0] != whole.text:
            return ()
        spans = [span for span in found[1] if span.end > span.start]
        messages = enumerate(chat.row.messages[: chat.size])
        answers = [index for index, message in messages if message["role"] == "assistant"]
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


class _RowChat:
    """A row's chat up to its last learned answer, and what the template writes of its beginnings.

    Rendered without a limit of time: nobody waits for an answer, and Ctrl-C ends it."""

    def __init__(self, chat: Chat, row: Row, size: int) -> None:
        """`size`: in messages."""
        self._chat, self.row, self.size = chat, row, size
        self._messages = [_checked(message) for message in row.messages[:size]]
        self._tools = [_tool(tool) for tool in row.tools]
        self._ready = messages, tools = chat.prepare(self._messages, self._tools)
        self._is_as_given = tools is None and messages == self._messages
        self._is_plain = not chat.spells_controls(messages, given=row.variables, tools=tools)

    def rendered(self, size: int, *, is_prompt: bool = False) -> RenderedChat:
        """The first `size` messages as the server renders them; `is_prompt`: with the beginning of
        an answer. Raises InvalidRequest where the template refuses them."""
        if size == self.size:
            messages, tools = self._ready
        elif self._is_as_given:
            messages, tools = self._messages[:size], None
        else:
            messages, tools = self._chat.prepare(self._messages[:size], self._tools)
        is_part = messages == self._ready.messages[: len(messages)] and tools == self._ready.tools
        return self._chat.render(
            messages,
            given=self.row.variables,
            add_generation_prompt=is_prompt,
            continue_final_message=False,
            max_chars=MAX_CHARS,
            tools=tools,
            is_watched=False,
            spells_controls=False if self._is_plain and is_part else None,
        )

    def generated(self) -> tuple[str, list[Span]] | None:
        """The text of all, and its generation blocks, where the template has some."""
        messages, tools = self._ready
        return self._chat.generated(
            messages, given=self.row.variables, max_chars=MAX_CHARS, tools=tools
        )


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
