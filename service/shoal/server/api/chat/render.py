"""Renders chat deltas as stream chunks or one JSON response. Does no I/O."""

from collections.abc import Iterator
from typing import Any

from shoal.protocol.messages import TokenLogprobs
from shoal.server import sse
from shoal.server.api.generation.serialize import (
    RenderOptions,
    answer_pieces,
    closing_event,
    ext_dict,
    float32_value,
    progress_event,
    token_text,
    usage_dict,
)
from shoal.server.api.generation.trace import trace_entries, traces_of_choices
from shoal.server.json import dumps
from shoal.text.delta import Delta
from shoal.text.generator import Generation, Usage
from shoal.text.message import (
    MessageDelta,
    MessageReader,
    PlainParser,
    joined_tool_calls,
)
from shoal.text.task import GenerationTask


class ChatRenderer(sse.OpenAIStream):
    """Renders the /v1/chat/completions response of one request."""

    def __init__(
        self, task: GenerationTask, options: RenderOptions, usage: Usage, *, logprobs: bool
    ) -> None:
        """`usage` is updated while the generation runs."""
        self._task = task
        self._options = options
        self._usage = usage
        self._logprobs = logprobs
        self._traces = "trace" in options.include
        self._started: set[int] = set()
        self._messages = MessageReader(task.make_parser)
        self._id = f"chatcmpl-{options.unique}"
        self._head = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": options.created,
            "model": task.model.name,
        }
        self._before_index = b"data: " + dumps(self._head)[:-1] + b',"choices":[{"index":'
        self._plain_end = b'}],"usage":null}\n\n' if options.include_usage else b"}]}\n\n"
        self._text_only = task.make_parser is PlainParser and not (
            logprobs or options.return_token_ids or options.continuous_usage or self._traces
        )

    def chunk(self, delta: Delta) -> bytes:
        """The role with the first token, then content, then a separate final chunk."""
        if delta.progress is not None:
            return progress_event(self._head, delta.progress)
        records: list[bytes] = []
        if delta.index not in self._started:
            self._started.add(delta.index)
            records.append(self._record(delta.index, {"role": "assistant", "content": ""}))
        if self._text_only and delta.finish_reason is None:
            records.append(self._text_record(delta.index, delta.text))
            return b"".join(records)
        parts = self._messages.read(delta)
        if not parts.is_empty or self._has_token_data(delta):
            first, *calls = _delta_dicts(parts)
            records.append(self._record(delta.index, first, delta))
            records += [self._record(delta.index, call) for call in calls]
        if delta.finish_reason is not None:
            end = (parts.finish_reason, delta.stop_reason)
            records.append(self._record(delta.index, {}, end=end))
        return b"".join(records)

    def closing(self, generation: Generation) -> bytes:
        return closing_event(self._head, self._options, generation) + sse.DONE

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        return b"".join(self.pieces(deltas, generation))

    def pieces(self, deltas: list[Delta], generation: Generation) -> Iterator[bytes]:
        answer: dict[str, Any] = {"usage": usage_dict(generation.usage)}
        if self._options.include:
            answer["ext"] = ext_dict(generation, self._options)
        if self._traces:
            answer["ext"]["trace"] = traces_of_choices(
                self._task.model.tokenizer, deltas, as_id=self._options.tokens_as_ids
            )
        head = {
            **self._head,
            "object": "chat.completion",
            "system_fingerprint": self._options.fingerprint,
        }
        return answer_pieces(head, map(self._whole_choice, deltas), answer)

    def _whole_choice(self, delta: Delta) -> dict[str, Any]:
        parts = self._messages.read(delta)
        choice: dict[str, Any] = {
            "index": delta.index,
            "message": _message_dict(parts),
            "logprobs": self._logprobs_dict(delta) if self._logprobs else None,
            "finish_reason": parts.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self._options.return_token_ids:
            choice["token_ids"] = delta.token_ids
            choice["prompt_token_ids"] = self._task.prompts[0].token_ids
        return choice

    def _text_record(self, index: int, text: str) -> bytes:
        """A text-only chunk, built without a dict since it is the common case."""
        return b"%b%d%b%b%b%b" % (
            self._before_index,
            index,
            b',"delta":{"content":',
            dumps(text),
            b'},"logprobs":null,"finish_reason":null',
            self._plain_end,
        )

    def _record(
        self,
        index: int,
        content: dict[str, Any],
        tokens: Delta | None = None,
        *,
        end: tuple[str | None, int | str | None] | None = None,
    ) -> bytes:
        """`end`: finish reason and stop reason."""
        choice: dict[str, Any] = {
            "index": index,
            "delta": content,
            "logprobs": self._logprobs_dict(tokens) if tokens and self._logprobs else None,
            "finish_reason": end[0] if end else None,
        }
        if end is not None:
            choice["stop_reason"] = end[1]
        if tokens is not None and self._options.return_token_ids:
            choice["token_ids"] = tokens.token_ids
        if tokens is not None and self._traces:
            choice["trace"] = trace_entries(
                self._task.model.tokenizer, tokens.traces, as_id=self._options.tokens_as_ids
            )
        record: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._options.continuous_usage:
            record["usage"] = usage_dict(self._usage)
        elif self._options.include_usage:
            record["usage"] = None
        return sse.event(dumps(record))

    def _has_token_data(self, delta: Delta) -> bool:
        shown = self._logprobs or self._options.return_token_ids or self._traces
        return (shown or delta.finish_reason is None) and bool(delta.token_ids)

    def _logprobs_dict(self, delta: Delta) -> dict[str, Any]:
        return {"content": [self._entry(entry) for entry in delta.logprobs], "refusal": None}

    def _entry(self, entry: TokenLogprobs) -> dict[str, Any]:
        return {
            **self._token(entry.token_id, entry.logprob),
            "top_logprobs": [
                self._token(token_id, logprob)
                for token_id, logprob in zip(entry.top_ids, entry.top_logprobs, strict=True)
            ],
        }

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        tokenizer = self._task.model.tokenizer
        special = token_id in tokenizer.special_ids
        return {
            "token": token_text(tokenizer, token_id, as_id=self._options.tokens_as_ids),
            "logprob": float32_value(logprob),
            "bytes": None if special else list(tokenizer.bytes_of(token_id)),
        }


def _delta_dicts(parts: MessageDelta) -> list[dict[str, Any]]:
    """The `delta` of each chunk. A call begins in one of its own, without arguments yet."""
    text: dict[str, Any] = {}
    if parts.reasoning:
        text["reasoning_content"] = parts.reasoning
    if parts.content:
        text["content"] = parts.content
    deltas = [text] if text else []
    for call in parts.tool_calls:
        if call.id is not None:
            begun = {"name": call.name, "arguments": ""}
            head = {"index": call.index, "id": call.id, "type": "function", "function": begun}
            deltas.append({"tool_calls": [head]})
        if call.arguments:
            more = {"index": call.index, "function": {"arguments": call.arguments}}
            deltas.append({"tool_calls": [more]})
    return deltas or [{"content": ""}]


def _message_dict(parts: MessageDelta) -> dict[str, Any]:
    """The whole `message` of a choice."""
    calls = joined_tool_calls(parts.tool_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": parts.content if parts.content or not calls else None,
        "refusal": None,
    }
    if parts.reasoning:
        message["reasoning_content"] = parts.reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message
