"""Runs a validated task on the engine and yields text deltas, for streamed and whole responses.

Each sequence of the task has one `SequenceText`, which the engine client calls on the event loop.
The request handler takes the deltas that are ready; if it is slow, deltas are merged, so the queue
stays bounded. `close` aborts the sequences that still run.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from shoal.bridge.engine_client import EngineClient
from shoal.errors import (
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NumericalError,
    RequestTimeout,
    ShoalError,
    Unavailable,
)
from shoal.protocol.messages import Finished, Progress, Started, Submit, TokenLogprobs
from shoal.protocol.params import FinishReason, StopParams
from shoal.protocol.trace import TokenTrace
from shoal.text.delta import Delta
from shoal.text.stops import StopMatcher
from shoal.text.task import GenerationTask


@dataclass(slots=True)
class Usage:
    """Token counts of a request so far; each prompt counts once, whatever `n` is."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cpu_seconds: float = 0.0
    """Of the engine; what it spent on a sequence after its last output is not in it."""


@dataclass(slots=True)
class Timings:
    """Timestamps (monotonic clock) and durations of a request, in seconds."""

    submitted: float
    first_token: float | None = None
    queue_s: float = 0.0
    prefill_s: float = 0.0
    num_ahead: int = 0
    """Sequences that were waiting when its first one arrived."""


class SequenceText:
    """A SequenceSink that turns one sequence's tokens into text deltas."""

    __slots__ = (
        "_counter", "_cpu_s", "_detokenizer", "_generation", "_hidden_names", "_num_chars",
        "_stops", "index", "open", "seq_id", "token_ids",
    )  # fmt: skip

    def __init__(self, generation: "Generation", index: int, seq_id: int) -> None:
        task = generation.task
        prompt = task.prompts[index // task.best_of]
        tokenizer = task.model.tokenizer
        self._generation = generation
        self._detokenizer = tokenizer.detokenizer(
            prompt.token_ids, skip_special_tokens=task.skip_special_tokens
        )
        self._counter = task.make_counter() if task.make_counter is not None else None
        self._stops = StopMatcher(task.stop_strings, keep_match=task.include_stop)
        has_hidden = bool(task.stop_strings) and task.skip_special_tokens
        self._hidden_names = tokenizer.special_names if has_hidden else {}
        if has_hidden and task.shown_tokens:
            names = self._hidden_names.items()
            self._hidden_names = {i: name for i, name in names if i not in task.shown_tokens}
        self._num_chars = 0  # code points of output text, stop strings included
        self._cpu_s = 0.0
        self.index = index
        self.seq_id = seq_id
        self.token_ids: list[int] = []
        self.open = True

    def push(
        self,
        token_id: int | None,
        logprobs: TokenLogprobs | None,
        prompt_logprobs: list[TokenLogprobs | None] | None,
        started: Started | None,
        finished: Finished | None,
        further: Sequence[int] = (),
        trace: TokenTrace | None = None,
        cpu_s: float = 0.0,
        embedding: bytes | None = None,
    ) -> None:
        if not self.open:
            return
        self._generation.usage.cpu_seconds += cpu_s - self._cpu_s
        self._cpu_s = cpu_s
        delta = Delta(self.index, prompt_logprobs=prompt_logprobs, embedding=embedding)
        if trace is not None:
            delta.traces = (trace,)
        if started is not None:
            self._generation.sequence_started(self.index, started)
        if token_id is not None:
            tokens = (token_id, *further)
            for place, each_id in enumerate(tokens, 1):
                if self.open:  # no stop string so far
                    end = finished if place == len(tokens) else None
                    self._add_token(delta, each_id, logprobs if place == 1 else None, end)
        if finished is not None and self.open:
            error = self._finish(delta, finished)
            if error is not None:
                self.fail(error)
                return
        self._generation.add(delta)

    def note_progress(self, progress: Progress) -> None:
        if self.index == 0 and self.open and not self.token_ids:
            self._generation.add(Delta(self.index, progress=progress))

    def fail(self, error: ShoalError) -> None:
        self._generation.fail(error)  # while still open, so that the sequence is aborted
        self.open = False

    def cancel(self) -> None:
        """Ends with what it has."""
        delta = Delta(self.index)
        self._finish(delta, Finished(FinishReason.LENGTH, stop_reason="cancelled"))
        self._generation.add(delta)

    def _add_token(
        self,
        delta: Delta,
        token_id: int,
        logprobs: TokenLogprobs | None,
        finished: Finished | None,
    ) -> None:
        task = self._generation.task
        self.token_ids.append(token_id)
        delta.token_ids.append(token_id)
        if self._counter is not None:
            raw = task.model.tokenizer.bytes_of(token_id)
            self._generation.usage.reasoning_tokens += self._counter.push(raw)
        if logprobs is not None:
            delta.add_logprobs(logprobs, self._num_chars)
        ends_here = (
            finished is not None
            and finished.reason is FinishReason.STOP
            and token_id in task.stop.all_stop_ids  # else its grammar ends with it
        )
        if ends_here and not task.include_stop:
            return
        piece = self._detokenizer.push(token_id)
        if token_id in task.shown_tokens:
            piece = self._show(token_id)
        self._num_chars += len(piece)
        if len(self.token_ids) <= task.stop.min_tokens:
            delta.text += piece
            return
        # Stop strings also match special tokens that are hidden from the caller.
        hidden = self._hidden_names.get(token_id)
        text, matched = self._stops.push(piece) if hidden is None else self._stops.hide(hidden)
        delta.text += text
        if matched is not None:
            self.open = False
            delta.finish_reason, delta.stop_reason = "stop", matched
            self._generation.sequence_stopped(self)

    def _show(self, token_id: int) -> str:
        """The name of a special token, and what was held back before it."""
        task = self._generation.task
        before = self._detokenizer.finish()
        self._detokenizer = task.model.tokenizer.detokenizer(
            task.prompts[self.index // task.best_of].token_ids,
            skip_special_tokens=task.skip_special_tokens,
        )
        return before + task.shown_tokens[token_id]

    def _finish(self, delta: Delta, finished: Finished) -> ShoalError | None:
        """Completes the last delta; returns an error if the sequence failed."""
        if finished.reason is FinishReason.ERROR:
            return to_error(finished)
        tail, matched = self._stops.push(self._detokenizer.finish())
        delta.text += tail if matched else tail + self._stops.flush()
        task = self._generation.task
        delta.finish_reason = "length" if finished.reason is FinishReason.LENGTH else "stop"
        delta.stop_reason = finished.stop_reason
        if matched is not None:
            delta.finish_reason, delta.stop_reason = "stop", matched
        elif finished.stop_reason in task.stop.end_token_ids:
            delta.stop_reason = None
        self.open = False
        return None


class Generation:
    """A running request: an async iterator over lists of deltas.

    Raises the ShoalError that ended it. Use as an async context manager, or call `close`.
    """

    def __init__(self, client: EngineClient, task: GenerationTask, *, buffer_chunks: int) -> None:
        self.task = task
        self.usage = Usage(task.num_prompt_tokens)
        self.timings = Timings(time.monotonic())
        self._client = client
        self._buffer_chunks = buffer_chunks
        self._pending: list[Delta] = []
        self._error: ShoalError | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._interrupted = False
        self._loop: asyncio.AbstractEventLoop | None = None
        """Cached, since get_running_loop makes a system call."""
        self._sequences = [
            SequenceText(self, index, client.new_seq_id()) for index in range(task.num_sequences)
        ]
        self._num_open = len(self._sequences)

    def submit(self) -> None:
        """Submits every sequence to the engine. If it raises Unavailable, none is left running."""
        self._submit_all(self._sequences)

    def _submit_all(self, sequences: Iterable[SequenceText]) -> None:
        try:
            for sequence in sequences:
                self._submit_one(sequence, self.task.stop)
        except BaseException:  # whatever the error, leave no sequence running unread
            self.close()
            raise

    def _submit_one(self, sequence: SequenceText, stop: StopParams) -> None:
        task = self.task
        prompt_index, sample_index = divmod(sequence.index, task.best_of)
        self._client.submit(
            Submit(
                seq_id=sequence.seq_id,
                model=task.model.base,
                prompt_token_ids=task.prompts[prompt_index].token_ids,
                sampling=task.sampling_of(sample_index),
                stop=stop,
                output=task.output_of(prompt_index),
                priority=task.priority,
                tenant=task.tenant,
                weight=task.weight,
                cache_salt=task.cache_salt,
                use_prefix_cache=task.use_prefix_cache,
                adapter_id=task.model.adapter_id,
            ),
            sequence,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Delta]:
        while True:
            deltas = await self.wait()
            if deltas:
                return deltas
            if deltas is not None:
                raise StopAsyncIteration

    async def wait(self) -> list[Delta] | None:
        """Waits for deltas and returns those that are ready: an empty list after the last one, None
        if `interrupt_wait` ended the wait. Raises the ShoalError that ended the request."""
        while not self._pending:
            if self._error is not None:
                raise self._error
            if self._num_open == 0:
                return []
            if self._interrupted:
                self._interrupted = False
                return None
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._wakeup = self._loop.create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        self._interrupted = False
        deltas, self._pending = self._pending, []
        return deltas

    def interrupt_wait(self) -> None:
        """Makes the pending `wait` return None if no delta is ready."""
        self._interrupted = True
        self._wake()

    def close(self) -> None:
        """Aborts the sequences that still run. Idempotent."""
        still_open = [sequence.seq_id for sequence in self._sequences if sequence.open]
        for sequence in self._sequences:
            sequence.open = False
        if still_open:
            self._client.abort(still_open)
        self._num_open = 0

    def token_ids(self, index: int) -> list[int]:
        """Those of one sequence so far."""
        return self._sequences[index].token_ids

    def cancel(self) -> int | None:
        """Ends the sequences that still run with what they have. Returns how many tokens the
        request has generated, None if it is over already."""
        running = [sequence for sequence in self._sequences if sequence.open]
        if not running:
            return None
        for sequence in running:
            sequence.cancel()
        self._client.abort([sequence.seq_id for sequence in running])
        return self.usage.completion_tokens

    # --- called by the sequences ---------------------------------------------------------------

    def add(self, delta: Delta) -> None:
        """Queues a delta for `wait`."""
        self.usage.completion_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._num_open -= 1
        if len(self._pending) >= self._buffer_chunks and self._merge(delta):
            return
        self._pending.append(delta)
        self._wake()

    def fail(self, error: ShoalError) -> None:
        """One failed sequence fails its request; the others are aborted."""
        if self._error is None:
            self._error = error
            self.close()
        self._wake()

    def sequence_started(self, index: int, started: Started) -> None:
        """Records cache and timing statistics at a sequence's first token."""
        if index % self.task.best_of == 0:
            self.usage.cached_tokens += started.num_cached_tokens
        if self.timings.first_token is None:
            self.timings.first_token = time.monotonic()
            self.timings.queue_s = started.queue_s
            self.timings.prefill_s = started.prefill_s
            self.timings.num_ahead = started.num_ahead

    def sequence_stopped(self, sequence: SequenceText) -> None:
        """A stop string matched, so the engine must stop computing this sequence."""
        self._client.abort([sequence.seq_id])

    def _merge(self, delta: Delta) -> bool:
        """Merges into the choice's last queued delta; False if it has none."""
        for waiting in reversed(self._pending):
            if waiting.index == delta.index:
                waiting.merge(delta)
                return True
        return False

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


def to_error(finished: Finished) -> ShoalError:
    """What the caller is told of a sequence that failed."""
    match finished.error_code:
        case "numerical_error":
            return NumericalError("the model produced numbers that are not finite")
        case "no_token_left":
            return InvalidRequest(
                "no token is left to sample: the options in use ban every one",
                hint="look at logit_bias, allowed_token_ids, min_tokens and no_repeat_ngram_size",
            )
        case "model_not_found":
            return ModelNotFound("the adapter was unloaded", param="model")
        case "request_timeout":
            return RequestTimeout("max_time passed before the request could start")
        case "grammar_error":
            return InvalidRequest(
                finished.error_message
                or "the grammar of the answer allows no token that the request allows, or is too "
                "complex to follow: make it simpler, or drop logit_bias and other bans",
                code="invalid_schema",
            )
        case "server_is_overloaded":
            return Unavailable("the server ran out of KV cache for this request", retry_after_s=2.0)
        case _:
            return InternalError("the engine failed on this request")
