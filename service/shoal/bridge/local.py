"""An in-process engine behind the `EngineClient` interface, for tests and offline use.

Each step runs on the event loop, which gets control back between steps. One of the three files
that may import both the server side and the engine side.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence

from shoal.bridge.engine_client import Dispatcher, ModelState, SequenceSink, StepObserver
from shoal.engine.core import EngineCore
from shoal.errors import Unavailable
from shoal.protocol.messages import EngineStats, LoadedModel, Submit


class LocalEngine:
    """EngineClient over an EngineCore in the same process."""

    def __init__(self, core: EngineCore, *, observer: StepObserver | None = None) -> None:
        self._core = core
        self._dispatcher = Dispatcher(observer)
        self._ids = itertools.count(1)
        self._loaded = {model.name: model for model in core.loaded_models}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        for stats in core.stats():
            self._dispatcher.stats[stats.model] = stats

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        return self._loaded

    @property
    def states(self) -> Mapping[str, ModelState]:
        return {name: ModelState("ready", 1.0) for name in self._loaded}

    @property
    def stats(self) -> Mapping[str, EngineStats]:
        return self._dispatcher.stats

    @property
    def silent_s(self) -> float:
        return 0.0

    def new_seq_id(self) -> int:
        return next(self._ids)

    def submit(self, message: Submit, sink: SequenceSink) -> None:
        if self._closed:
            raise Unavailable("the engine is closed", code="shutting_down")
        self._dispatcher.add(message.seq_id, sink)
        self._core.add(message)
        self._work.set()

    def abort(self, seq_ids: Sequence[int]) -> None:
        if known := self._dispatcher.drop(seq_ids):
            self._core.abort(known)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="local-engine")

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._dispatcher.fail_all(Unavailable("the engine is closed", code="shutting_down"))

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._core.has_work:
                outputs = self._core.step()
                if outputs is None:
                    break
                self._dispatcher.deliver(outputs)
                await asyncio.sleep(0)


def now_s() -> float:
    """The clock to construct an in-process EngineCore with."""
    return time.monotonic()
