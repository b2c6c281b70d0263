"""The interface of an engine as the HTTP side sees it, and the delivery of its outputs.

All calls and all deliveries happen on the event loop's thread. Read `remote.py` for the real
thing, `local.py` for the same inside one process.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from shoal.errors import InternalError, ShoalError
from shoal.protocol.messages import (
    EngineStats,
    Finished,
    LoadedModel,
    Started,
    StepOutputs,
    Submit,
    TokenLogprobs,
)

log = logging.getLogger("shoal.bridge")


class SequenceSink(Protocol):
    """Receives everything the engine says about one sequence; must not block or raise."""

    def push(
        self,
        token_id: int | None,
        logprobs: TokenLogprobs | None,
        prompt_logprobs: list[TokenLogprobs | None] | None,
        started: Started | None,
        finished: Finished | None,
    ) -> None: ...

    def fail(self, error: ShoalError) -> None:
        """The sequence ended without the engine's word: crash, restart, shutdown."""
        ...


class StepObserver(Protocol):
    """Sees every step once, for metrics."""

    def on_step(self, outputs: StepOutputs) -> None: ...


@dataclass(slots=True)
class ModelState:
    """Where a model of the configuration stands."""

    state: Literal["loading", "ready", "failed"] = "loading"
    progress: float = 0.0
    reason: str | None = None


class EngineClient(Protocol):
    """An engine with all its models."""

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """Models that are ready, by name."""
        ...

    @property
    def states(self) -> Mapping[str, ModelState]:
        """Every configured model."""
        ...

    @property
    def stats(self) -> Mapping[str, EngineStats]:
        """The latest numbers of each ready model."""
        ...

    @property
    def silent_s(self) -> float:
        """Seconds since the engine was last heard of."""
        ...

    def new_seq_id(self) -> int: ...

    def submit(self, message: Submit, sink: SequenceSink) -> None:
        """Starts a sequence. Raises Unavailable while the engine is not ready."""
        ...

    def abort(self, seq_ids: Sequence[int]) -> None:
        """Ends sequences; safe to call twice and for unknown ids. Sinks hear nothing more."""
        ...

    async def start(self) -> None:
        """Begins loading; returns before the models are ready."""
        ...

    async def close(self) -> None: ...


class Dispatcher:
    """Who waits for which sequence; hands out the outputs of a step in one loop."""

    def __init__(self, observer: StepObserver | None = None) -> None:
        self._sinks: dict[int, SequenceSink] = {}
        self._observer = observer
        self.stats: dict[str, EngineStats] = {}

    def add(self, seq_id: int, sink: SequenceSink) -> None:
        self._sinks[seq_id] = sink

    def drop(self, seq_ids: Sequence[int]) -> list[int]:
        """Forgets sequences; returns those that were known."""
        return [seq_id for seq_id in seq_ids if self._sinks.pop(seq_id, None) is not None]

    def deliver(self, outputs: StepOutputs) -> None:
        """The only loop over a step's outputs on this side."""
        self.stats[outputs.model] = outputs.stats
        if self._observer is not None:
            self._observer.on_step(outputs)
        sinks, started, finished = self._sinks, outputs.started, outputs.finished
        logprobs, prompt_logprobs = outputs.logprobs, outputs.prompt_logprobs
        for seq_id, token_id in zip(outputs.seq_ids, outputs.token_ids, strict=True):
            if (sink := sinks.get(seq_id)) is not None:
                end = finished.get(seq_id)
                try:
                    sink.push(
                        token_id,
                        logprobs.get(seq_id),
                        prompt_logprobs.get(seq_id),
                        started.get(seq_id),
                        end,
                    )
                except Exception:  # one sequence's text must not stop the others' delivery
                    _fail(seq_id, sink)
                if end is not None:
                    sinks.pop(seq_id, None)
        for seq_id, end in finished.items():
            if (sink := sinks.pop(seq_id, None)) is not None:  # ended without a token
                try:
                    sink.push(None, None, prompt_logprobs.get(seq_id), started.get(seq_id), end)
                except Exception:  # as above
                    _fail(seq_id, sink)

    def fail_all(self, error: ShoalError) -> None:
        """Every open sequence ends with this error."""
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.fail(error)

    @property
    def num_open(self) -> int:
        return len(self._sinks)


def _fail(seq_id: int, sink: SequenceSink) -> None:
    """Call in an `except`: logs it and ends this sequence."""
    log.exception("delivery failed", extra={"seq_id": seq_id})
    sink.fail(InternalError("the server failed on this request"))
