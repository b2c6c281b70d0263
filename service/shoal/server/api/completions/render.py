"""Renders completion deltas as stream chunks or one JSON response. Does no I/O."""

from collections.abc import Iterator, Sequence
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
    top_texts,
    usage_dict,
)
from shoal.server.api.generation.trace import trace_entries, traces_of_choices
from shoal.server.json import dumps
from shoal.text.delta import Delta
from shoal.text.generator import Generation, Usage
from shoal.text.task import GenerationTask


class CompletionRenderer(sse.OpenAIStream):
    """Renders the /v1/completions response of one request."""

    def __init__(
        self,
        task: GenerationTask,
        options: RenderOptions,
        usage: Usage,
        *,
        logprobs: int | None,
        prompt_logprobs: int | None,
    ) -> None:
        """`usage` is updated while the generation runs."""
        self._task = task
        self._options = options
        self._usage = usage
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs
        self._traces = "trace" in options.include
        self._started: set[int] = set()
        self._head = {
            "id": f"cmpl-{options.unique}",
            "object": "text_completion",
            "created": options.created,
            "model": task.model.name,
        }
        # Chunks with text only are built from this template, without a dict.
        self._before_index = b"data: " + dumps(self._head)[:-1] + b',"choices":[{"index":'
        self._plain_end = b'}],"usage":null}\n\n' if options.include_usage else b"}]}\n\n"
        self._text_only = (
            logprobs is None
            and not task.echo
            and not options.return_token_ids
            and not options.continuous_usage
            and not self._traces
        )

    def chunk(self, delta: Delta) -> bytes:
        if delta.progress is not None:
            return progress_event(self._head, delta.progress)
        if self._text_only:
            return b"%b%d%b%b%b%b%b%b%b" % (
                self._before_index,
                delta.index,
                b',"text":',
                dumps(delta.text),
                b',"logprobs":null,"finish_reason":',
                dumps(delta.finish_reason),
                b',"stop_reason":',
                dumps(delta.stop_reason),
                self._plain_end,
            )
        choice = self._choice(delta, delta.index)
        if self._traces:
            choice["trace"] = trace_entries(
                self._task.model.tokenizer, delta.traces, as_id=self._options.tokens_as_ids
            )
        record = {**self._head, "choices": [choice]}
        if self._options.continuous_usage:
            record["usage"] = usage_dict(self._usage)
        elif self._options.include_usage:
            record["usage"] = None
        return sse.event(dumps(record))

    def closing(self, generation: Generation) -> bytes:
        return closing_event(self._head, self._options, generation) + sse.DONE

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        return b"".join(self.pieces(deltas, generation))

    def pieces(self, deltas: list[Delta], generation: Generation) -> Iterator[bytes]:
        best = _best(deltas, self._task.n, self._task.best_of)
        choices = (self._choice(delta, index) for index, delta in enumerate(best))
        answer: dict[str, Any] = {"usage": usage_dict(generation.usage)}
        if self._options.include:
            chosen = [delta.index for delta in best]
            answer["ext"] = ext_dict(generation, self._options, chosen)
        if self._traces:
            answer["ext"]["trace"] = traces_of_choices(
                self._task.model.tokenizer, best, as_id=self._options.tokens_as_ids
            )
        head = {**self._head, "system_fingerprint": self._options.fingerprint}
        return answer_pieces(head, choices, answer)

    def _choice(self, delta: Delta, shown_index: int) -> dict[str, Any]:
        task, options = self._task, self._options
        first = delta.index not in self._started
        self._started.add(delta.index)
        prompt = task.prompts[delta.index // task.best_of]
        echo = _Echo(task, prompt.token_ids, prompt.text) if task.echo else None
        choice: dict[str, Any] = {
            "index": shown_index,
            "text": echo.text + delta.text if echo and first else delta.text,
            "logprobs": None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self._logprobs is not None:
            choice["logprobs"] = self._logprobs_dict(delta, echo, first, self._logprobs)
        if self._prompt_logprobs is not None:
            choice["prompt_logprobs"] = self._prompt_entries(delta.prompt_logprobs or [])
        if options.return_token_ids:
            choice["token_ids"] = delta.token_ids
            if first:
                choice["prompt_token_ids"] = prompt.token_ids
        return choice

    def _logprobs_dict(
        self, delta: Delta, echo: "_Echo | None", first: bool, k: int
    ) -> dict[str, list[Any]]:
        """The four parallel logprobs arrays; offsets are code points in the returned text."""
        entries: list[TokenLogprobs | None] = list(delta.logprobs)
        token_ids = list(delta.token_ids)
        start = len(echo.text) if echo else 0
        offsets = [start + offset for offset in delta.offsets]
        if echo and first:
            entries = [*(delta.prompt_logprobs or [None] * len(echo.token_ids)), *entries]
            token_ids = [*echo.token_ids, *token_ids]
            offsets = [*echo.offsets, *offsets]
        tokenizer, as_id = self._task.model.tokenizer, self._options.tokens_as_ids
        return {
            "tokens": [token_text(tokenizer, token_id, as_id=as_id) for token_id in token_ids],
            "token_logprobs": [
                None if entry is None else float32_value(entry.logprob) for entry in entries
            ],
            "top_logprobs": [
                None if entry is None else top_texts(tokenizer, entry, k, as_id=as_id)
                for entry in entries
            ],
            "text_offset": offsets,
        }

    def _prompt_entries(
        self, entries: Sequence[TokenLogprobs | None]
    ) -> list[dict[str, dict[str, Any]] | None]:
        """Per prompt token: logprob and text of the most likely ids and of the token itself."""
        k = self._prompt_logprobs or 0
        shown: list[dict[str, dict[str, Any]] | None] = []
        for entry in entries:
            if entry is None:
                shown.append(None)
                continue
            pairs = dict(zip(entry.top_ids[:k], entry.top_logprobs[:k], strict=True))
            pairs.setdefault(entry.token_id, entry.logprob)
            shown.append(
                {
                    str(token_id): {
                        "logprob": float32_value(logprob),
                        "decoded_token": self._task.model.tokenizer.token_name(token_id),
                    }
                    for token_id, logprob in pairs.items()
                }
            )
        return shown


class _Echo:
    """The prompt's text and the offset of each of its tokens."""

    def __init__(self, task: GenerationTask, token_ids: list[int], text: str | None) -> None:
        self.token_ids = token_ids
        detokenizer = task.model.tokenizer.detokenizer(
            (), skip_special_tokens=task.skip_special_tokens
        )
        pieces: list[str] = []
        self.offsets: list[int] = []
        length = 0
        for token_id in token_ids:
            self.offsets.append(length)
            pieces.append(detokenizer.push(token_id))
            length += len(pieces[-1])
        self.text = "".join(pieces) + detokenizer.finish() if text is None else text


def _best(deltas: list[Delta], n: int, best_of: int) -> list[Delta]:
    """The n candidates of each prompt with the highest mean logprob per token."""
    if best_of == n:
        return deltas
    chosen: list[Delta] = []
    for start in range(0, len(deltas), best_of):
        candidates = deltas[start : start + best_of]
        chosen += best_first(candidates)[:n]
    return chosen


def best_first(candidates: list[Delta]) -> list[Delta]:
    """The candidates of one prompt, the highest mean logprob per token first."""
    return sorted(candidates, key=_mean_logprob, reverse=True)


def _mean_logprob(delta: Delta) -> float:
    if not delta.logprobs:
        return float("-inf")
    return sum(entry.logprob for entry in delta.logprobs) / len(delta.logprobs)
