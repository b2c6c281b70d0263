"""Renders chat deltas as the stream events of a response or the whole object. Does no I/O."""

import time
from typing import Any

from shoal.errors import ShoalError
from shoal.server import sse
from shoal.server.api.blocks import Block, Blocks, Change, Step
from shoal.server.api.generation.serialize import RenderOptions, ext_dict
from shoal.server.api.logprobs import logprob_entries
from shoal.server.api.responses.events import EventWriter, item_of
from shoal.server.api.responses.schema import ResponseRequest
from shoal.server.json import dumps
from shoal.text.delta import Delta
from shoal.text.generator import Generation, Usage
from shoal.text.message import MessageReader
from shoal.text.task import GenerationTask


class ResponseRenderer:
    """Renders the answer of one /v1/responses request."""

    stream_headers = sse.HEADERS
    ping = sse.PING

    def __init__(
        self, fields: ResponseRequest, task: GenerationTask, options: RenderOptions, usage: Usage
    ) -> None:
        """`usage` is updated while the generation runs."""
        self._task = task
        self._options = options
        self._usage = usage
        self._wants_logprobs = fields.wants_logprobs
        self._logprobs: list[dict[str, Any]] = []
        self._num_shown_logprobs = 0
        self._messages = MessageReader(task.make_parser)
        self._blocks = Blocks()
        self._events = EventWriter(options.unique)
        self._has_started = False
        self._is_cut = False
        self._echo = _echo(fields, task)

    def chunk(self, delta: Delta) -> bytes:
        start = self._start()
        return start + b"".join(self._step(step) for step in self._read(delta))

    def closing(self, generation: Generation) -> bytes:
        name = "incomplete" if self._is_cut else "completed"
        return self._events.response(name, self._object(name, generation))

    def failed(self, error: ShoalError) -> bytes:
        failure = {"code": "server_error", "message": error.message}
        response = {**self._object("failed"), "error": failure}
        return self._start() + self._events.response("failed", response)

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        for delta in deltas:
            self._read(delta)
        return dumps(self._object("incomplete" if self._is_cut else "completed", generation))

    def _read(self, delta: Delta) -> list[Step]:
        if self._wants_logprobs:
            self._logprobs += logprob_entries(self._task.model.tokenizer, delta.logprobs)
        parts = self._messages.read(delta)
        steps = self._blocks.push(parts)
        if parts.finish_reason is not None:
            self._is_cut = parts.finish_reason == "length"
            steps += self._blocks.finish()
        return steps

    def _start(self) -> bytes:
        if self._has_started:
            return b""
        self._has_started = True
        response = self._object("in_progress")
        return self._events.response("created", response) + self._events.response(
            "in_progress", response
        )

    def _step(self, step: Step) -> bytes:
        match step.change:
            case Change.OPENED:
                return self._events.opened(step.block)
            case Change.GREW:
                return self._events.grew(step.block, step.piece, self._new_logprobs(step.block))
            case Change.CLOSED:
                item = self._item(step.block)
                return self._events.closed(step.block, item, self._logprobs)

    def _new_logprobs(self, block: Block) -> list[dict[str, Any]]:
        """Those since the last piece of text."""
        if block.kind != "text":
            return []
        new = self._logprobs[self._num_shown_logprobs :]
        self._num_shown_logprobs += len(new)
        return new

    def _item(self, block: Block) -> dict[str, Any]:
        is_cut = self._is_cut and block is self._blocks.all[-1]
        status = "incomplete" if is_cut else "completed"
        return item_of(block, self._options.unique, status, self._logprobs)

    def _object(self, status: str, generation: Generation | None = None) -> dict[str, Any]:
        """The response; without its generation, as it is before the end."""
        over = generation is not None
        response: dict[str, Any] = {
            "id": f"resp_{self._options.unique}",
            "object": "response",
            "created_at": self._options.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self._is_cut else None,
            "model": self._task.model.name,
            "output": [self._item(block) for block in self._blocks.all] if over else [],
            **self._echo,
            "usage": _usage_dict(self._usage) if over else None,
            "system_fingerprint": self._options.fingerprint,
        }
        if generation is not None and self._options.include:
            response["ext"] = ext_dict(generation, self._options)
        return response


def _echo(fields: ResponseRequest, task: GenerationTask) -> dict[str, Any]:
    """The settings of the request, with the values that were used."""
    return {
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": None,
        "metadata": fields.metadata,
        "parallel_tool_calls": fields.parallel_tool_calls,
        "previous_response_id": None,
        "background": False,
        "reasoning": {"effort": fields.reasoning.effort, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": task.sampling.temperature,
        "top_p": task.sampling.top_p,
        "top_logprobs": fields.top_logprobs or 0,
        "text": {"format": fields.text.format},
        "tool_choice": fields.tool_choice,
        "tools": fields.tools,
        "truncation": "disabled",
        "user": fields.user,
    }


def _usage_dict(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
