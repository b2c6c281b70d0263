"""Renders deltas as Ollama's JSON lines or one object. Does no I/O."""

import time
from datetime import UTC, datetime
from typing import Any

from shoal.errors import ShoalError
from shoal.server.api.arguments import parsed_arguments
from shoal.server.api.blocks import Block, Blocks, Change
from shoal.server.api.logprobs import logprob_entries
from shoal.server.error_shapes import ollama_shape
from shoal.server.json import dumps
from shoal.server.sse import Headers
from shoal.text.delta import Delta
from shoal.text.generator import Generation
from shoal.text.message import MessageDelta, MessageReader

HEADERS: Headers = (
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class OllamaRenderer:
    """Renders the answer of one request to /api/chat or /api/generate."""

    stream_headers = HEADERS

    def __init__(
        self, generation: Generation, *, model: str, is_chat: bool, logprobs: bool
    ) -> None:
        """`model`: as the request named it."""
        self._generation = generation
        self._model = model
        self._is_chat = is_chat
        self._wants_logprobs = logprobs
        self._messages = MessageReader(generation.task.make_parser)
        self._blocks = Blocks()
        self._done_reason = "stop"

    @property
    def ping(self) -> bytes:
        """A line without text: the format has no comments."""
        return self._line(self._content(MessageDelta(), []))

    def chunk(self, delta: Delta) -> bytes:
        parts, calls = self._read(delta)
        if parts.is_empty and not calls and not (self._wants_logprobs and delta.logprobs):
            return b""
        return self._line({**self._content(parts, calls), **self._logprobs(delta)})

    def closing(self, generation: Generation) -> bytes:
        return self._line({**self._content(MessageDelta(), []), **self._end()})

    def failed(self, error: ShoalError) -> bytes:
        return dumps(ollama_shape(error, "")) + b"\n"

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        (delta,) = deltas
        parts, calls = self._read(delta)
        content = self._content(parts, calls)
        return dumps({**self._head(), **content, **self._logprobs(delta), **self._end()})

    def _read(self, delta: Delta) -> tuple[MessageDelta, list[Block]]:
        """New parts, and tool calls that are whole now: they are sent in one piece."""
        parts = self._messages.read(delta)
        steps = self._blocks.push(parts)
        if parts.finish_reason is not None:
            self._done_reason = "length" if parts.finish_reason == "length" else "stop"
            steps += self._blocks.finish()
        calls = [
            step.block
            for step in steps
            if step.change is Change.CLOSED and step.block.kind == "tool_call"
        ]
        parts.tool_calls = []
        return parts, calls

    def _content(self, parts: MessageDelta, calls: list[Block]) -> dict[str, Any]:
        thinking = {"thinking": parts.reasoning} if parts.reasoning else {}
        if not self._is_chat:
            return {"response": parts.content, **thinking}
        message: dict[str, Any] = {"role": "assistant", "content": parts.content, **thinking}
        if calls:
            message["tool_calls"] = [_call_dict(call) for call in calls]
        return {"message": message}

    def _logprobs(self, delta: Delta) -> dict[str, Any]:
        if not self._wants_logprobs:
            return {}
        tokenizer = self._generation.task.model.tokenizer
        return {"logprobs": logprob_entries(tokenizer, delta.logprobs)}

    def _line(self, content: dict[str, Any]) -> bytes:
        return dumps({**self._head(), "done": False, **content}) + b"\n"

    def _head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": now()}

    def _end(self) -> dict[str, Any]:
        """Of the last line: why it ends, counts, and durations in nanoseconds."""
        timings, usage, end = self._generation.timings, self._generation.usage, time.monotonic()
        first = timings.first_token if timings.first_token is not None else end
        return {
            "done": True,
            "done_reason": self._done_reason,
            "total_duration": _nanoseconds(end - timings.submitted),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(timings.prefill_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(end - first),
        }


def now() -> str:
    """The time, as in all of Ollama's answers."""
    return timestamp(time.time())


def timestamp(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time, UTC).isoformat().replace("+00:00", "Z")


def _call_dict(call: Block) -> dict[str, Any]:
    function = {"name": call.name, "arguments": parsed_arguments(call.text)}
    return {"id": call.id, "function": function}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
