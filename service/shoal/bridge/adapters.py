"""The adapters of an engine, as its client knows them: which are wanted, which are ready, and who
waits for the engine's word. Used by both clients; all calls happen on the event loop's thread.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from shoal.errors import ModelFolderError, ModelNotFound, ShoalError, Unavailable
from shoal.protocol.messages import (
    AdapterEvent,
    AdapterFailed,
    AdapterLoaded,
    AdapterSource,
)

log = logging.getLogger("shoal.engine")


class AdapterTable:
    """Adapters by id."""

    def __init__(self, sources: Sequence[AdapterSource] = ()) -> None:
        """`sources`: those that the engine loads at its start."""
        self._wanted = {source.adapter_id: source for source in sources}
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.ready: dict[int, AdapterLoaded] = {}
        self.failed: dict[int, str] = {}
        """Why the engine could not load one after a restart."""

    @property
    def wanted(self) -> tuple[AdapterSource, ...]:
        """What an engine that starts has to load."""
        return tuple(self._wanted.values())

    def check(self, adapter_id: int) -> None:
        """May a sequence have it now? Raises ModelNotFound or Unavailable."""
        if adapter_id == 0 or adapter_id in self.ready:
            return
        if adapter_id in self._wanted:
            raise Unavailable("the adapter is loading", code="model_loading", retry_after_s=2.0)
        raise ModelNotFound("the adapter was unloaded", param="model")

    def add(self, source: AdapterSource, loaded: AdapterLoaded) -> None:
        """One that is loaded already."""
        self._wanted[source.adapter_id] = source
        self.ready[source.adapter_id] = loaded

    async def loaded(self, source: AdapterSource) -> None:
        """Waits for the engine's answer to `LoadAdapter`. Raises ModelFolderError, or what ended
        the engine."""
        self._wanted[source.adapter_id] = source
        await self._answer(source.adapter_id)

    def leave(self, adapter_id: int) -> None:
        """From now on no sequence may have it."""
        self._wanted.pop(adapter_id, None)
        self.ready.pop(adapter_id, None)
        self.failed.pop(adapter_id, None)

    async def unloaded(self, adapter_id: int) -> None:
        """Waits for the engine's answer to `UnloadAdapter`, or its end."""
        await self._answer(adapter_id)

    def handle(self, event: AdapterEvent) -> None:
        """The engine's word on one of them."""
        adapter_id = event.adapter_id
        waiting = self._waiting.pop(adapter_id, None)
        match event:
            case AdapterLoaded():
                if adapter_id in self._wanted:
                    self.ready[adapter_id] = event
            case AdapterFailed():
                log.error("adapter failed", extra={"reason": event.message})
                source = self._wanted.pop(adapter_id, None)
                if waiting is None and source is not None:
                    self.failed[adapter_id] = event.message
        if waiting is None or waiting.done():
            return
        if isinstance(event, AdapterFailed):
            waiting.set_exception(ModelFolderError(event.message))
        else:
            waiting.set_result(None)

    def engine_ended(self, error: ShoalError) -> None:
        """Nothing is loaded any more. The next engine loads what is wanted, as far as it can: the
        models are served without what fails then."""
        self.ready.clear()
        self._wanted = {
            adapter_id: msgspec.structs.replace(source, may_fail=True)
            for adapter_id, source in self._wanted.items()
        }
        waiting, self._waiting = self._waiting, {}
        for adapter_id, future in waiting.items():
            was_loading = self._wanted.pop(adapter_id, None) is not None
            if future.done():
                continue
            if was_loading:
                future.set_exception(error)
            else:
                future.set_result(None)  # unloaded, with all else

    async def _answer(self, adapter_id: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[adapter_id] = future
        await future
