"""Runs the inputs of an embeddings request on the engine: each becomes a vector.

Only as many are with the engine at once as the request has places for; as one ends the next
follows. So a request with very many inputs fits a short queue, and leaves room for others.
"""

import time
from itertools import islice

import msgspec

from shoal.bridge.engine_client import EngineClient
from shoal.errors import InvalidRequest, ShoalError
from shoal.protocol.params import StopParams
from shoal.text.delta import Delta
from shoal.text.generator import Generation, SequenceText
from shoal.text.task import GenerationTask


class EmbeddingGeneration(Generation):
    """A running request whose sequences end with their vectors."""

    def __init__(
        self, client: EngineClient, task: GenerationTask, *, buffer_chunks: int, max_open: int
    ) -> None:
        """`max_open`: sequences that the engine has at once."""
        super().__init__(client, task, buffer_chunks=buffer_chunks)
        self._max_open = max_open
        self._unsent = iter(self._sequences)

    def submit(self) -> None:
        """Submits the first sequences. If it raises Unavailable, none is left running."""
        self._submit_all(islice(self._unsent, self._max_open))

    def add(self, delta: Delta) -> None:
        super().add(delta)
        if delta.finish_reason is None or (sequence := next(self._unsent, None)) is None:
            return
        try:
            self._submit_one(sequence, self._time_left())
        except ShoalError as error:
            self.fail(error)

    def close(self) -> None:
        self._unsent = iter(list[SequenceText]())
        super().close()

    def cancel(self) -> int | None:
        """Fails the request, since a part of its vectors is of no use."""
        if self._num_open == 0:
            return None
        self.fail(InvalidRequest("the request was cancelled", code="request_cancelled"))
        return 0

    def _time_left(self) -> StopParams:
        """The deadline is that of the request, also for what is submitted late."""
        stop = self.task.stop
        if stop.deadline_s is None:
            return stop
        passed_s = time.monotonic() - self.timings.submitted
        return msgspec.structs.replace(stop, deadline_s=max(0.001, stop.deadline_s - passed_s))
