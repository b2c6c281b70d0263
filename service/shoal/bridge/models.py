"""The models of an engine that come and go while it runs, as its client knows them.

All calls happen on the event loop's thread.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from shoal.errors import ModelFolderError, ShoalError
from shoal.protocol.messages import ModelSource


class ModelTable:
    """Models by name: those that an engine which starts has to load, and who waits for a word."""

    def __init__(self, sources: Sequence[ModelSource]) -> None:
        """`sources`: those that the engine loads at its start."""
        self._wanted = {source.name: source for source in sources}
        self._loading: dict[str, tuple[ModelSource, asyncio.Future[None]]] = {}
        self._unloading: dict[str, asyncio.Future[None]] = {}
        self._resetting: list[asyncio.Future[int]] = []

    @property
    def wanted(self) -> tuple[ModelSource, ...]:
        """What an engine that starts has to load. One that is only being loaded may have ended the
        engine before: it is not among them."""
        return tuple(self._wanted.values())

    def is_being_added(self, name: str) -> bool:
        return name in self._loading

    async def load(self, source: ModelSource) -> None:
        """Waits for the engine's answer to `LoadModel`. Raises ModelFolderError, or what ended the
        engine."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loading[source.name] = source, future
        await asyncio.shield(future)

    async def unload(self, name: str, *, is_gone: bool) -> None:
        """Waits for the engine's answer to `UnloadModel`, or its end. `is_gone`: no engine runs."""
        self._wanted.pop(name, None)
        if is_gone:
            return
        self._unloading[name] = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._unloading[name])

    async def reset(self) -> int:
        """Waits for the engine's answer to `ResetCache`; how many blocks were forgotten."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._resetting.append(future)
        return await asyncio.shield(future)

    def loaded(self, name: str) -> None:
        if (entry := self._loading.pop(name, None)) is not None:
            source, future = entry
            self._wanted[name] = msgspec.structs.replace(source, may_fail=True)
            future.set_result(None)

    def failed(self, name: str, message: str) -> bool:
        """Was it being added?"""
        if (entry := self._loading.pop(name, None)) is None:
            return False
        entry[1].set_exception(ModelFolderError(message))
        return True

    def unloaded(self, name: str) -> None:
        if (future := self._unloading.pop(name, None)) is not None:
            future.set_result(None)

    def cache_reset(self, num_blocks: int) -> None:
        self._resetting.pop(0).set_result(num_blocks)

    def engine_ended(self, error: ShoalError) -> None:
        """Nothing is loaded any more, and every cache empty."""
        loading, self._loading = self._loading, {}
        unloading, self._unloading = self._unloading, {}
        resetting, self._resetting = self._resetting, []
        for _, future in loading.values():
            future.set_exception(error)
        for gone in unloading.values():
            gone.set_result(None)
        for reset in resetting:
            reset.set_result(0)
