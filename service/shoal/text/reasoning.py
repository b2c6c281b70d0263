"""What a model thinks before it answers: told apart from the answer by the marks around it."""

from collections.abc import Callable
from typing import NamedTuple

from shoal.text.message import MessageDelta, MessageParser


class ReasoningMarks(NamedTuple):
    """What a model writes around its reasoning."""

    begin: str
    end: str


KNOWN_MARKS = (ReasoningMarks("<think>", "</think>"), ReasoningMarks("[THINK]", "[/THINK]"))


def reasoning_marks(template: str) -> ReasoningMarks | None:
    """Those that a chat template writes or cuts at; None: its model shows no reasoning."""
    return next((marks for marks in KNOWN_MARKS if marks.end in template), None)


def is_opened(marks: ReasoningMarks, prompt: str) -> bool:
    """Did the prompt itself begin the reasoning?"""
    return prompt.rstrip().endswith(marks.begin)


class ReasoningParser:
    """A MessageParser of what comes first; what follows is another's. Space around the reasoning
    belongs to the marks."""

    def __init__(self, marks: ReasoningMarks, inner: MessageParser, *, opened: bool) -> None:
        self.has_tool_calls = False
        self._marks = marks
        self._inner = inner
        self._place = "reasoning" if opened else "start"
        self._held = ""
        self._is_first = True
        """No reasoning was given out yet: space at its beginning is dropped."""

    def push(self, text: str) -> MessageDelta:
        if self._place == "answer":
            return self._answer(text)
        self._held += text
        delta = MessageDelta()
        if self._place == "start":
            self._start()
        if self._place == "reasoning":
            self._reason(delta)
        if self._place == "space":
            self._held = self._held.lstrip()
            if self._held:
                self._place = "answer"
        if self._place == "answer":
            held, self._held = self._held, ""
            after = self._answer(held)
            delta.content, delta.tool_calls = after.content, after.tool_calls
        return delta

    def finish(self) -> MessageDelta:
        delta = MessageDelta()
        if self._place == "reasoning":
            delta.reasoning = self._held.rstrip()
        elif self._place == "start":
            before = self._answer(self._held)
            delta.content, delta.tool_calls = before.content, before.tool_calls
        rest = self._inner.finish()
        delta.content += rest.content
        delta.tool_calls += rest.tool_calls
        self._held = ""
        return delta

    def _answer(self, text: str) -> MessageDelta:
        delta = self._inner.push(text)
        self.has_tool_calls = self._inner.has_tool_calls
        return delta

    def _start(self) -> None:
        text = self._held.lstrip()
        if text.startswith(self._marks.begin):
            self._place, self._held = "reasoning", text[len(self._marks.begin) :]
        elif not self._marks.begin.startswith(text):
            self._place = "answer"

    def _reason(self, delta: MessageDelta) -> None:
        if self._is_first:
            self._held = self._held.lstrip()
        reasoning, mark, after = self._held.partition(self._marks.end)
        if mark:
            delta.reasoning, self._held, self._place = reasoning.rstrip(), after, "space"
            return
        end = self._marks.end
        part = max((num for num in range(1, len(end)) if reasoning.endswith(end[:num])), default=0)
        sure = reasoning[: len(reasoning) - part].rstrip()
        delta.reasoning, self._held = sure, reasoning[len(sure) :]
        self._is_first = self._is_first and not sure


class ReasoningCounter:
    """Counts the tokens of a sequence's reasoning, its marks included."""

    __slots__ = ("_begin", "_end", "_place", "_tail", "_waiting")

    def __init__(self, marks: ReasoningMarks, *, opened: bool) -> None:
        self._begin, self._end = marks.begin.encode(), marks.end.encode()
        self._place = "reasoning" if opened else "start"
        self._tail = b""
        self._waiting = 0
        """Tokens that may be the beginning of a mark."""

    def push(self, token: bytes) -> int:
        """How many tokens more are of the reasoning, now that this one came."""
        if self._place == "answer":
            return 0
        self._tail += token
        num_tokens = 1
        if self._place == "start":
            self._waiting += 1
            text = self._tail.lstrip()
            if not text.startswith(self._begin):
                if not self._begin.startswith(text):
                    self._place = "answer"
                return 0
            self._place, num_tokens = "reasoning", self._waiting
            self._tail = text[len(self._begin) :]
        if self._end in self._tail:
            self._place = "answer"
        self._tail = self._tail[-(len(self._end) - 1) :]
        return num_tokens


MakeCounter = Callable[[], ReasoningCounter]
