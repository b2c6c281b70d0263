"""Renders completion deltas as text-generation-inference does. Does no I/O."""

from typing import Any

from shoal.errors import ShoalError
from shoal.protocol.messages import TokenLogprobs
from shoal.server import sse
from shoal.server.api.completions.render import best_first
from shoal.server.api.generation.serialize import float32_value, signed
from shoal.server.api.tgi.schema import GenerateRequest
from shoal.server.error_shapes import tgi_shape
from shoal.server.json import dumps
from shoal.text.delta import Delta
from shoal.text.generator import Generation
from shoal.text.task import GenerationTask


class GenerateRenderer:
    """Renders the answer of one generate request."""

    stream_headers = sse.HEADERS
    ping = sse.PING

    def __init__(self, fields: GenerateRequest, task: GenerationTask, *, in_list: bool) -> None:
        """`in_list`: whether a plain answer stands in an array, as that of POST / does."""
        asked = fields.parameters
        self._task = task
        self._in_list = in_list
        self._shows_details = asked.details
        self._num_top = asked.top_n_tokens
        self._shows_prompt = asked.decoder_input_details
        self._samples = asked.samples
        self._text = fields.inputs if asked.return_full_text else ""
        self._num_tokens = 0
        self._last = {"id": task.prompts[0].token_ids[-1], "text": "", "logprob": 0.0}

    def chunk(self, delta: Delta) -> bytes:
        """One event per token. The text of a delta stands at its last token, and what is held
        back until the end at the last token of all."""
        self._text += delta.text
        tokens: list[tuple[dict[str, Any], TokenLogprobs | None]] = [
            (self._token(entry, ""), entry) for entry in delta.logprobs
        ]
        self._num_tokens += len(tokens)
        if not tokens:
            if not (delta.text or delta.finish_reason):
                return b""
            tokens = [({**self._last}, None)]
        self._last = {**tokens[-1][0]}
        tokens[-1][0]["text"] = delta.text
        first = self._num_tokens - len(tokens) + 1
        events = []
        for number, (token, entry) in enumerate(tokens, first):
            is_last = delta.finish_reason is not None and number == self._num_tokens
            events.append(self._event(number, token, entry, delta if is_last else None))
        return b"".join(events)

    def closing(self, generation: Generation) -> bytes:
        return b""

    def failed(self, error: ShoalError) -> bytes:
        return sse.event(dumps(tgi_shape(error, self._task.request_id)))

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        best, *others = best_first(deltas)
        answer: dict[str, Any] = {"generated_text": self._text + best.text}
        if self._shows_details:
            answer["details"] = self._details(best)
            if others:
                answer["details"]["best_of_sequences"] = [
                    {"generated_text": self._text + other.text, **self._details(other)}
                    for other in others
                ]
        return dumps([answer] if self._in_list else answer)

    def _event(
        self, number: int, token: dict[str, Any], entry: TokenLogprobs | None, end: Delta | None
    ) -> bytes:
        """`end`: the delta that ends the answer, with its last token."""
        record: dict[str, Any] = {"index": number, "token": token}
        if self._num_top and entry is not None:
            record["top_tokens"] = self._top_tokens(entry)
        record |= {"generated_text": None, "details": None}
        if end is not None:
            record["generated_text"] = self._text
            record["details"] = {
                **self._end(end, self._num_tokens),
                "input_length": self._task.num_prompt_tokens,
            }
        return sse.event(dumps(record))

    def _details(self, delta: Delta) -> dict[str, Any]:
        details = {
            **self._end(delta, len(delta.token_ids)),
            "prefill": self._prefill(delta) if self._shows_prompt else [],
            "tokens": [self._token(entry) for entry in delta.logprobs],
        }
        if self._num_top:
            details["top_tokens"] = [self._top_tokens(entry) for entry in delta.logprobs]
        return details

    def _end(self, delta: Delta, num_tokens: int) -> dict[str, Any]:
        reason = "length" if delta.finish_reason == "length" else "eos_token"
        if delta.finish_reason == "stop" and delta.stop_reason is not None:
            reason = "stop_sequence"
        seed = signed(self._task.sampling_of(delta.index).seed) if self._samples else None
        return {"finish_reason": reason, "generated_tokens": num_tokens, "seed": seed}

    def _prefill(self, delta: Delta) -> list[dict[str, Any]]:
        token_ids = self._task.prompts[0].token_ids
        values = [entry and float32_value(entry.logprob) for entry in delta.prompt_logprobs or ()]
        name = self._task.model.tokenizer.token_name
        return [
            {"id": token_id, "text": name(token_id), "logprob": value}
            for token_id, value in zip(token_ids, values, strict=True)
        ]

    def _token(self, entry: TokenLogprobs, text: str | None = None) -> dict[str, Any]:
        return self._named(entry.token_id, entry.logprob, text)

    def _top_tokens(self, entry: TokenLogprobs) -> list[dict[str, Any]]:
        return [
            self._named(token_id, logprob)
            for token_id, logprob in zip(entry.top_ids, entry.top_logprobs, strict=True)
        ]

    def _named(self, token_id: int, logprob: float, text: str | None = None) -> dict[str, Any]:
        tokenizer = self._task.model.tokenizer
        return {
            "id": token_id,
            "text": tokenizer.token_name(token_id) if text is None else text,
            "logprob": float32_value(logprob),
            "special": token_id in tokenizer.special_ids,
        }
