"""Runs a beam search on the engine: a step asks for the next token of every running sequence.

Each question is a sequence of its own with one output token. The prefix cache has all of it but
the last block, so a step computes a few tokens for each.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from shoal.bridge.engine_client import EngineClient
from shoal.errors import InternalError, RequestTimeout, ShoalError
from shoal.protocol.messages import Finished, Progress, Started, Submit, TokenLogprobs
from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams
from shoal.protocol.trace import TokenTrace
from shoal.text.beam import Beam, BeamParams, BeamSearch
from shoal.text.generator import Generation, to_error
from shoal.text.task import GenerationTask

log = logging.getLogger("shoal.text")


class _Answer:
    """A SequenceSink for one token."""

    def __init__(self, future: "asyncio.Future[TokenLogprobs]") -> None:
        self._future = future
        self.started: Started | None = None
        self.cpu_s = 0.0

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
        self.cpu_s = cpu_s
        self.started = started or self.started
        if self._future.done():
            return
        if logprobs is not None:
            self._future.set_result(logprobs)
        elif finished is not None:
            is_error = finished.reason is FinishReason.ERROR
            self._future.set_exception(
                to_error(finished) if is_error else InternalError("the engine gave no token")
            )

    def note_progress(self, progress: Progress) -> None:
        """A beam search does not tell."""

    def fail(self, error: ShoalError) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class BeamGeneration(Generation):
    """A running request whose choices are the best sequences of a beam search. Nothing of them is
    known before its end, so all their text comes at once."""

    def __init__(
        self, client: EngineClient, task: GenerationTask, params: BeamParams, *, buffer_chunks: int
    ) -> None:
        super().__init__(client, task, buffer_chunks=buffer_chunks)
        self._params = params
        self._asked: list[int] = []  # sequences of the current steps
        self._search: asyncio.Task[None] | None = None

    def submit(self) -> None:
        """Starts the search. What stops it is raised by `wait`."""
        self._search = asyncio.get_running_loop().create_task(self._run(), name="beam-search")

    def close(self) -> None:
        super().close()
        if self._search is not None and not self._search.done():
            self._search.cancel()
        self._client.abort(self._asked)

    def cancel(self) -> int | None:
        """Ends the search; its choices are empty."""
        tokens = super().cancel()
        self.close()
        return tokens

    async def _run(self) -> None:
        try:
            await asyncio.gather(*map(self._run_prompt, range(len(self.task.prompts))))
        except ShoalError as error:
            self.fail(error)
        except Exception:  # a bug: whoever waits is told
            log.exception("beam search failed")
            self.fail(InternalError("the server failed on this request"))

    async def _run_prompt(self, prompt_index: int) -> None:
        task, stop = self.task, self.task.stop
        search = BeamSearch(
            self._params,
            frozenset(stop.all_stop_ids),
            max_tokens=stop.max_tokens,
            min_tokens=stop.min_tokens,
        )
        cut_by: str | None = None
        while not search.is_done:
            try:
                search.advance(await self._ask(prompt_index, search))
            except RequestTimeout:
                if not search.running[0].token_ids:
                    raise
                cut_by = "max_time"
                break
        beams = search.best(task.n)
        beams += [Beam((), 0.0, ())] * (task.n - len(beams))  # there are no more
        for sample_index, beam in enumerate(beams):
            reason = FinishReason.STOP if search.ends_itself(beam) else FinishReason.LENGTH
            stop_reason = beam.token_ids[-1] if search.ends_itself(beam) else cut_by
            self._tell(prompt_index * task.n + sample_index, beam, Finished(reason, stop_reason))

    async def _ask(self, prompt_index: int, search: BeamSearch) -> list[TokenLogprobs]:
        """The best next tokens of every running sequence."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[TokenLogprobs]] = [
            loop.create_future() for _ in search.running
        ]
        answers = [_Answer(future) for future in futures]
        seq_ids = [self._client.new_seq_id() for _ in futures]
        self._asked += seq_ids
        try:
            for seq_id, beam, answer in zip(seq_ids, search.running, answers, strict=True):
                self._client.submit(self._question(prompt_index, seq_id, beam, search), answer)
            found = await asyncio.gather(*futures)
        finally:
            self._client.abort(seq_ids)
            self._asked = [seq_id for seq_id in self._asked if seq_id not in seq_ids]
            self.usage.cpu_seconds += sum(answer.cpu_s for answer in answers)
        if not search.running[0].token_ids and (started := answers[0].started) is not None:
            self.sequence_started(prompt_index * self.task.n, started)
        return found

    def _question(self, prompt_index: int, seq_id: int, beam: Beam, search: BeamSearch) -> Submit:
        task = self.task
        num_top = max(
            task.output.logprobs or 0, search.num_candidates + len(task.stop.all_stop_ids)
        )
        deadline_s = task.stop.deadline_s
        if deadline_s is not None:
            deadline_s = max(0.001, deadline_s - (time.monotonic() - self.timings.submitted))
        return Submit(
            seq_id=seq_id,
            model=task.model.base,
            prompt_token_ids=[*task.prompts[prompt_index].token_ids, *beam.token_ids],
            sampling=SamplingParams(seed=0, temperature=0.0),
            stop=StopParams(max_tokens=1, deadline_s=deadline_s),
            output=OutputParams(logprobs=num_top),
            priority=task.priority,
            tenant=task.tenant,
            weight=task.weight,
            cache_salt=task.cache_salt,
            use_prefix_cache=task.use_prefix_cache,
            adapter_id=task.model.adapter_id,
        )

    def _tell(self, index: int, beam: Beam, finished: Finished) -> None:
        """One choice, as if the engine had sampled it."""
        sequence = self._sequences[index]
        if not beam.token_ids:
            sequence.push(None, None, None, None, finished)
        num_top, last = self.task.output.logprobs, len(beam.token_ids) - 1
        for place, (token_id, entry) in enumerate(zip(beam.token_ids, beam.entries, strict=True)):
            shown: TokenLogprobs | None = None
            if num_top is not None:
                shown = msgspec.structs.replace(
                    entry,
                    top_ids=entry.top_ids[:num_top],
                    top_logprobs=entry.top_logprobs[:num_top],
                )
            sequence.push(token_id, shown, None, None, finished if place == last else None)
