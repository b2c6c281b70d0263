"""An in-process engine behind the `EngineClient` interface, for tests and offline use.

Each step runs on the event loop, which gets control back between steps. One of the three files
that may import both the server side and the engine side.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence

from shoal.bridge.adapters import AdapterTable
from shoal.bridge.engine_client import Dispatcher, ModelState, SequenceSink, StepObserver
from shoal.engine.core import EngineCore
from shoal.errors import Unavailable
from shoal.protocol.messages import (
    AdapterLoaded,
    AdapterSource,
    EngineStats,
    LoadedModel,
    Submit,
)


class LocalEngine:
    """EngineClient over an EngineCore in the same process."""

    def __init__(self, core: EngineCore, *, observer: StepObserver | None = None) -> None:
        self._core = core
        self._dispatcher = Dispatcher(observer)
        self._ids = itertools.count(1)
        self._loaded = {model.name: model for model in core.loaded_models}
        self._adapters = AdapterTable()
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

    @property
    def adapters(self) -> Mapping[int, AdapterLoaded]:
        return self._adapters.ready

    @property
    def failed_adapters(self) -> Mapping[int, str]:
        return self._adapters.failed

    async def load_adapter(self, source: AdapterSource) -> None:
        if source.model not in self._loaded:
            raise Unavailable(f"model {source.model} is not served", code="model_loading")
        loaded = self._core.load_adapter(source)
        self._adapters.add(source, loaded)

    async def unload_adapter(self, adapter_id: int) -> None:
        self._adapters.leave(adapter_id)
        self._core.unload_adapter(adapter_id)
        self._work.set()
        await self._adapters.unloaded(adapter_id)

    def new_seq_id(self) -> int:
        return next(self._ids)

    def submit(self, message: Submit, sink: SequenceSink) -> None:
        if self._closed:
            raise Unavailable("the engine is closed", code="shutting_down")
        self._adapters.check(message.adapter_id)
        self._dispatcher.add(message.seq_id, sink)
        self._core.add(message)
        self._work.set()

    def abort(self, seq_ids: Sequence[int]) -> None:
        if known := self._dispatcher.drop(seq_ids):
            self._core.abort(known)
            self._dispatcher.note_stats(self._core.stats())

    async def start(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._work.set)

        self._core.wake = wake
        self._task = asyncio.create_task(self._run(), name="local-engine")

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        error = Unavailable("the engine is closed", code="shutting_down")
        self._dispatcher.fail_all(error)
        self._adapters.engine_ended(error)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            self._report_unloaded()
            while self._core.has_work:
                outputs = self._core.step()
                if outputs is None:
                    break
                self._dispatcher.deliver(outputs)
                self._report_unloaded()
                await asyncio.sleep(0)

    def _report_unloaded(self) -> None:
        for event in self._core.take_unloaded():
            self._adapters.handle(event)


def now_s() -> float:
    """The clock to construct an in-process EngineCore with."""
    return time.monotonic()
