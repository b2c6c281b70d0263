"""Counts the events of one completion stream and records when each arrived.

Only the events up to the first text and the last four are parsed; all others cost one `startswith`
each. Handles OpenAI completion and chat chunks; does no I/O.
"""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

MOST_CLOSING_EVENTS = 4  # a finish chunk, a usage chunk, an error event and [DONE]


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """Result of one stream. `token_times`: arrival time of every event that carries tokens."""

    token_times: list[float]
    prompt_tokens: int | None
    output_tokens: int | None  # as reported by the server
    finish_reason: str | None
    error: str | None  # code of an error event
    ended: bool  # saw [DONE] or a finish reason


class EventStream:
    """Takes body bytes in pieces of any size; call `outcome()` after the stream has ended."""

    __slots__ = ("_first_choice", "_first_text", "_recent", "_tail", "_times")

    def __init__(self) -> None:
        self._tail = b""
        self._times: list[float] = []
        self._recent: deque[bytes] = deque(maxlen=MOST_CLOSING_EVENTS)
        self._first_text: int | None = None  # index of the first event with text in it
        self._first_choice: int | None = None

    def feed(self, data: bytes, now: float) -> None:
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._times.append(now)
                self._recent.append(line)
                if self._first_text is None:
                    self._look_for_text(line)

    def outcome(self) -> StreamOutcome:
        """Never raises; unexpected events count as tokens unless they clearly carry none."""
        times = list(self._times)
        error = finish_reason = None
        usage: dict[str, Any] = {}
        done = False
        for line in reversed(self._recent):
            if line[5:].strip() == b"[DONE]":
                done = True
                times.pop()
                continue
            event = _parse(line)
            usage = usage or event.get("usage") or {}
            if "error" in event:
                error = _error_code(event["error"])
            ended_by = _finish_reason(event)
            finish_reason = finish_reason or ended_by
            has_choices = bool(event.get("choices"))
            if has_choices and (_text(event) or ended_by is None):
                break
            times.pop()
        first = self._first_text if self._first_text is not None else self._first_choice
        return StreamOutcome(
            token_times=[] if first is None else times[first:],
            prompt_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
            finish_reason=finish_reason,
            error=error,
            ended=done or finish_reason is not None,
        )

    def _look_for_text(self, line: bytes) -> None:
        event = _parse(line)
        if self._first_choice is None and event.get("choices"):
            self._first_choice = len(self._times) - 1
        if _text(event):
            self._first_text = len(self._times) - 1


def error_code(body: bytes) -> str | None:
    """The `code` of an OpenAI error body, else its `type`; None if it is not an error body."""
    error = _parse(b"data:" + body).get("error")
    return None if error is None else _error_code(error)


def usage_of(body: bytes) -> dict[str, Any]:
    """The `usage` object of a response that was not streamed; empty if absent."""
    return _parse(b"data:" + body).get("usage") or {}


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line[5:])
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _choice(event: dict[str, Any]) -> dict[str, Any]:
    choices = event.get("choices") or [{}]
    return choices[0] if isinstance(choices[0], dict) else {}


def _text(event: dict[str, Any]) -> str:
    choice = _choice(event)
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""


def _finish_reason(event: dict[str, Any]) -> str | None:
    return _choice(event).get("finish_reason")


def _error_code(error: Any) -> str:
    fields = error if isinstance(error, dict) else {}
    return str(fields.get("code") or fields.get("type") or "error")
