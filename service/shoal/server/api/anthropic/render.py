"""Renders chat deltas as Anthropic's stream events or one message. Does no I/O."""

from typing import Any

from shoal.errors import ShoalError
from shoal.server import sse
from shoal.server.api.arguments import parsed_arguments
from shoal.server.api.blocks import Block, Blocks, Change, Step
from shoal.server.api.generation.serialize import RenderOptions
from shoal.server.error_shapes import anthropic_shape
from shoal.server.json import dumps
from shoal.text.delta import Delta
from shoal.text.generator import Generation, Usage
from shoal.text.message import MessageReader
from shoal.text.task import GenerationTask

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageRenderer:
    """Renders the answer of one /v1/messages request."""

    stream_headers = sse.HEADERS

    def __init__(
        self, task: GenerationTask, options: RenderOptions, usage: Usage, *, max_tokens: int
    ) -> None:
        """`usage` is updated while the generation runs; `max_tokens`: as requested."""
        self._task = task
        self._usage = usage
        self._has_less_room = task.stop.max_tokens < max_tokens
        self._messages = MessageReader(task.make_parser)
        self._blocks = Blocks()
        self._has_started = False
        self._end: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        self._head = {
            "id": f"msg_{options.unique}",
            "type": "message",
            "role": "assistant",
            "model": task.model.name,
        }

    @property
    def ping(self) -> bytes:
        """A comment before the first event, which must be message_start."""
        return sse.named_event("ping", b'{"type":"ping"}') if self._has_started else sse.PING

    def chunk(self, delta: Delta) -> bytes:
        events = [] if self._has_started else [self._start()]
        events += [_step_event(step) for step in self._read(delta)]
        return b"".join(events)

    def closing(self, generation: Generation) -> bytes:
        end = {"type": "message_delta", "delta": self._end, "usage": self._usage_dict()}
        return _event(end) + _event({"type": "message_stop"})

    def failed(self, error: ShoalError) -> bytes:
        return _event(anthropic_shape(error, self._task.request_id))

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        for delta in deltas:
            self._read(delta)
        content = [_whole_block(block) for block in self._blocks.all]
        return dumps({**self._head, "content": content, **self._end, "usage": self._usage_dict()})

    def _read(self, delta: Delta) -> list[Step]:
        parts = self._messages.read(delta)
        steps = self._blocks.push(parts)
        if parts.finish_reason is not None:
            steps += self._blocks.finish()
            self._end = self._end_of(parts.finish_reason, delta.stop_reason)
        return steps

    def _end_of(self, finish_reason: str, stop_reason: int | str | None) -> dict[str, Any]:
        if finish_reason == "stop" and isinstance(stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop_reason}
        reason = _STOP_REASONS[finish_reason]
        if reason == "max_tokens" and stop_reason is None and self._has_less_room:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}

    def _start(self) -> bytes:
        self._has_started = True
        message = {**self._head, "content": [], **self._end, "usage": self._usage_dict()}
        return _event({"type": "message_start", "message": message})

    def _usage_dict(self) -> dict[str, Any]:
        """Anthropic counts cached tokens apart from the others."""
        usage = self._usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        }


def _event(record: dict[str, Any]) -> bytes:
    return sse.named_event(record["type"], dumps(record))


def _step_event(step: Step) -> bytes:
    index = step.block.index
    match step.change:
        case Change.OPENED:
            block = _block(step.block, text="", arguments={})
            return _event({"type": "content_block_start", "index": index, "content_block": block})
        case Change.GREW:
            delta = _delta(step.block, step.piece)
            return _event({"type": "content_block_delta", "index": index, "delta": delta})
        case Change.CLOSED:
            return _event({"type": "content_block_stop", "index": index})


def _delta(block: Block, piece: str) -> dict[str, str]:
    match block.kind:
        case "text":
            return {"type": "text_delta", "text": piece}
        case "reasoning":
            return {"type": "thinking_delta", "thinking": piece}
        case "tool_call":
            return {"type": "input_json_delta", "partial_json": piece}


def _whole_block(block: Block) -> dict[str, Any]:
    arguments = parsed_arguments(block.text) if block.kind == "tool_call" else {}
    return _block(block, text=block.text, arguments=arguments)


def _block(block: Block, *, text: str, arguments: dict[str, Any]) -> dict[str, Any]:
    match block.kind:
        case "text":
            return {"type": "text", "text": text}
        case "reasoning":
            return {"type": "thinking", "thinking": text, "signature": ""}
        case "tool_call":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments}
