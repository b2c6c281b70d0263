"""The engine interface that the HTTP server uses, and the dispatch of engine outputs.

All calls and deliveries happen on the event loop's thread. `remote.py` implements the interface
for an engine in a child process, `local.py` for one in the same process.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from shoal.errors import InternalError, ShoalError
from shoal.protocol.messages import (
    AdapterLoaded,
    AdapterSource,
    EngineStats,
    Finished,
    LoadedModel,
    ModelSource,
    Progress,
    PromptPart,
    Started,
    StepOutputs,
    Submit,
    TokenLogprobs,
)
from shoal.protocol.trace import TokenTrace

log = logging.getLogger("shoal.bridge")


class SequenceSink(Protocol):
    """Receives all engine outputs for one sequence; must not block or raise."""

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
        """`further`: tokens of the same step, behind `token_id`. `cpu_s`: CPU time of the sequence
        so far. `embedding`: float32 numbers, little-endian; with `finished`."""
        ...

    def note_progress(self, progress: Progress) -> None:
        """How far it is, before its first token; only if `OutputParams.progress` is set."""
        ...

    def fail(self, error: ShoalError) -> None:
        """The sequence ended without a `Finished` message: crash, restart or shutdown."""
        ...


class StepObserver(Protocol):
    """Called once per engine step, for metrics."""

    def on_step(self, outputs: StepOutputs) -> None: ...


@dataclass(slots=True)
class ModelState:
    """Loading state of a configured model."""

    state: Literal["loading", "ready", "failed"] = "loading"
    progress: float = 0.0
    reason: str | None = None


class EngineClient(Protocol):
    """Client of an engine that serves one or more models."""

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """Ready models by name."""
        ...

    @property
    def states(self) -> Mapping[str, ModelState]:
        """Loading state of every configured model."""
        ...

    @property
    def stats(self) -> Mapping[str, EngineStats]:
        """The latest statistics of each ready model."""
        ...

    @property
    def silent_s(self) -> float:
        """Seconds since the last message from the engine."""
        ...

    @property
    def adapters(self) -> Mapping[int, AdapterLoaded]:
        """Ready adapters by id."""
        ...

    @property
    def failed_adapters(self) -> Mapping[int, str]:
        """Adapters that a restarted engine could not load again, and why."""
        ...

    async def load_model(self, source: ModelSource) -> None:
        """Returns when sequences may have it; `states` shows the progress. A restarted engine loads
        it again. Raises ModelFolderError, or Unavailable while the engine is not ready."""
        ...

    async def unload_model(self, name: str) -> None:
        """Sequences that still have it fail; returns when its memory is free."""
        ...

    async def reset_cache(self, name: str = "") -> int:
        """Empties the prefix cache of a model, by default of all; returns how many blocks it
        had."""
        ...

    async def load_adapter(self, source: AdapterSource) -> None:
        """Returns when sequences may have it. Raises ModelFolderError, or Unavailable while its
        base is not ready."""
        ...

    async def unload_adapter(self, adapter_id: int) -> None:
        """No sequence may have it from the call on; returns when the last one is over."""
        ...

    def forget_adapter(self, adapter_id: int) -> None:
        """Its base is about to be unloaded: no sequence may have it any more."""
        ...

    def new_seq_id(self) -> int: ...

    def submit(self, message: Submit, sink: SequenceSink) -> None:
        """Starts a sequence. Raises Unavailable while the engine is not ready, ModelNotFound for
        a model or an adapter that was unloaded."""
        ...

    def abort(self, seq_ids: Sequence[int]) -> None:
        """Ends sequences. Idempotent; ignores unknown ids. Their sinks are not called again."""
        ...

    async def start(self) -> None:
        """Starts loading; returns before the models are ready."""
        ...

    async def close(self) -> None: ...


class Dispatcher:
    """Routes the outputs of each step to the sinks of their sequences."""

    def __init__(self, observer: StepObserver | None = None) -> None:
        self._sinks: dict[int, SequenceSink] = {}
        self._observer = observer
        self._prompt_parts: dict[int, list[TokenLogprobs | None]] = {}
        self.stats: dict[str, EngineStats] = {}

    def add(self, seq_id: int, sink: SequenceSink) -> None:
        self._sinks[seq_id] = sink

    def drop(self, seq_ids: Sequence[int]) -> list[int]:
        """Removes sequences; returns the ids that were registered."""
        for seq_id in seq_ids:
            self._prompt_parts.pop(seq_id, None)
        return [seq_id for seq_id in seq_ids if self._sinks.pop(seq_id, None) is not None]

    def add_part(self, part: PromptPart) -> None:
        """Keeps it until the outputs come that it belongs to."""
        if part.seq_id in self._sinks:
            self._prompt_parts.setdefault(part.seq_id, []).extend(part.prompt_logprobs)

    def note_stats(self, stats: Sequence[EngineStats]) -> None:
        """Numbers that came without a step."""
        self.stats.update({model.model: model for model in stats})

    def deliver(self, outputs: StepOutputs) -> None:
        """Passes each output of a step to its sink."""
        self.stats[outputs.model] = outputs.stats
        if self._observer is not None:
            self._observer.on_step(outputs)
        sinks, started, finished = self._sinks, outputs.started, outputs.finished
        logprobs, prompt_logprobs = outputs.logprobs, outputs.prompt_logprobs
        if self._prompt_parts:
            prompt_logprobs = self._complete(prompt_logprobs)
        further = outputs.further
        traces, cpu_s = outputs.traces, outputs.seq_cpu_s
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
                        further.get(seq_id, ()),
                        traces.get(seq_id),
                        cpu_s.get(seq_id, 0.0),
                    )
                except Exception:  # a failing sink must not affect other sequences
                    _fail_sequence(seq_id, sink)
                if end is not None:
                    sinks.pop(seq_id, None)
        for seq_id, progress in outputs.progress.items():
            if (sink := sinks.get(seq_id)) is not None:
                sink.note_progress(progress)
        for seq_id, end in finished.items():
            if (sink := sinks.pop(seq_id, None)) is not None:  # finished without a new token
                try:
                    sink.push(
                        None,
                        None,
                        prompt_logprobs.get(seq_id),
                        started.get(seq_id),
                        end,
                        cpu_s=cpu_s.get(seq_id, 0.0),
                        embedding=outputs.embeddings.get(seq_id),
                    )
                except Exception:  # same reason
                    _fail_sequence(seq_id, sink)

    def _complete(
        self, prompt_logprobs: dict[int, list[TokenLogprobs | None]]
    ) -> dict[int, list[TokenLogprobs | None]]:
        """With the parts that came before."""
        parts = self._prompt_parts
        return {seq_id: parts.pop(seq_id, []) + rest for seq_id, rest in prompt_logprobs.items()}

    def forget_parts(self) -> None:
        """The engine that sent them is gone: what belongs to them comes again, whole."""
        self._prompt_parts.clear()

    def fail(self, errors: Mapping[int, ShoalError]) -> None:
        """Fails these sequences, each with its error; those that are gone are ignored."""
        for seq_id, error in errors.items():
            self._prompt_parts.pop(seq_id, None)
            if (sink := self._sinks.pop(seq_id, None)) is not None:
                sink.fail(error)

    def fail_all(self, error: ShoalError) -> None:
        """Fails every open sequence with this error."""
        self.fail(dict.fromkeys(self._sinks, error))

    @property
    def num_open(self) -> int:
        return len(self._sinks)


def _fail_sequence(seq_id: int, sink: SequenceSink) -> None:
    """Logs the exception being handled and fails this sequence."""
    log.exception("delivery failed", extra={"seq_id": seq_id})
    sink.fail(InternalError("the server failed on this request"))
