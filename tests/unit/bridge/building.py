"""A listener for one sequence, and an engine in a real child process on a fake runner."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shoal.bridge import remote, supervisor
from shoal.bridge.remote import RemoteEngine
from shoal.errors import ShoalError
from shoal.protocol.messages import (
    EngineConfig,
    EngineStats,
    Finished,
    ModelSource,
    Progress,
    Started,
    StepOutputs,
    TokenLogprobs,
)
from shoal.protocol.trace import TokenTrace

FAKE_ENGINE = Path(__file__).parents[2] / "fakes" / "engine_process.py"


class Listener:
    """A SequenceSink that writes down what it hears."""

    def __init__(self, on_token: Callable[[int | None], None] | None = None) -> None:
        self.token_ids: list[int] = []
        self.ends: list[Finished | ShoalError] = []
        self.calls: list[tuple[Any, ...]] = []
        self.progress: list[Progress] = []
        self.embedding: bytes | None = None
        self.ended = asyncio.Event()
        self.heard = asyncio.Event()
        self._on_token = on_token

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
        self.embedding = embedding
        self.calls.append((token_id, logprobs, prompt_logprobs, started, finished))
        self.heard.set()
        if self._on_token is not None:
            self._on_token(token_id)
        if token_id is not None:
            self.token_ids += [token_id, *further]
        if finished is not None:
            self._end(finished)

    def note_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def fail(self, error: ShoalError) -> None:
        self._end(error)

    def _end(self, end: Finished | ShoalError) -> None:
        self.ends.append(end)
        self.ended.set()

    async def end(self) -> Finished | ShoalError:
        """The one last word."""
        await asyncio.wait_for(self.ended.wait(), 40)
        await asyncio.sleep(0)
        assert len(self.ends) == 1
        return self.ends[0]


def step_outputs(seq_ids: list[int], token_ids: list[int], **fields: Any) -> StepOutputs:
    return StepOutputs(
        "fake", seq_ids, token_ids, len(seq_ids), len(seq_ids), 0.01, stats(), **fields
    )


def stats(model: str = "fake", **fields: Any) -> EngineStats:
    names = ("num_running", "num_waiting", "waiting_tokens", "num_blocks", "num_used_blocks",
             "num_preemptions", "tokens_per_s")  # fmt: skip
    return EngineStats(model, *(fields.get(name, 0) for name in names))


@asynccontextmanager
async def remote_engine(
    monkeypatch: pytest.MonkeyPatch,
    path: str = "",
    *,
    command: tuple[str, ...] = (sys.executable, str(FAKE_ENGINE)),
    hang_s: float = 30.0,
    stop_wait_s: float = 2.0,
    max_pause_s: float = 0.05,
    more_models: tuple[ModelSource, ...] = (),
    **options: Any,
) -> AsyncIterator[RemoteEngine]:
    """A started RemoteEngine; `path` holds the fake runner's options. Waits are short."""
    monkeypatch.setattr(remote, "HANG_S", hang_s)
    monkeypatch.setattr(supervisor, "STOP_WAIT_S", stop_wait_s)
    monkeypatch.setattr(supervisor, "MAX_PAUSE_S", max_pause_s)
    monkeypatch.setattr(remote, "Supervisor", partial(supervisor.Supervisor, command=command))
    config = EngineConfig(
        models=(ModelSource("fake", path or "num_blocks=64"), *more_models),
        block_size=4,
        heartbeat_s=0.05,
    )
    engine = RemoteEngine(config, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def ready(engine: RemoteEngine) -> None:
    await asyncio.wait_for(engine.ready.wait(), 20)
