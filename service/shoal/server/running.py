"""Generations in progress, by the id of their request: to cancel them, to wait for their end."""

import asyncio
from collections.abc import Iterator, Mapping

from shoal.errors import ShoalError
from shoal.protocol.messages import EngineStats
from shoal.text.generator import Generation


class RunningGenerations:
    """Each is here from its submission to the end of its response."""

    def __init__(self) -> None:
        self._by_id: dict[str, dict[Generation, str]] = {}  # request id -> generation -> tenant
        self._waiting: dict[str, asyncio.Event] = {}  # model -> set when none of it runs

    def add(self, request_id: str, tenant: str, generation: Generation) -> None:
        """A client may use one id for several requests."""
        self._by_id.setdefault(request_id, {})[generation] = tenant

    def remove(self, request_id: str, generation: Generation) -> None:
        same_id = self._by_id.get(request_id, {})
        same_id.pop(generation, None)
        if not same_id:
            self._by_id.pop(request_id, None)
        model = generation.task.model.base
        if model in self._waiting and not self.of_model(model):
            self._waiting.pop(model).set()

    def find(self, request_id: str, tenant: str | None) -> list[Generation]:
        """Those of this request; `tenant`: only if it is theirs."""
        found = self._by_id.get(request_id, {})
        return [g for g, owner in found.items() if tenant is None or owner == tenant]

    def of_model(self, model: str) -> list[Generation]:
        """Those that a model of the engine computes, adapters included."""
        return [g for g in self._all() if g.task.model.base == model]

    def fail_waiting(self, stats: Mapping[str, EngineStats], error: ShoalError) -> None:
        """Fails the requests that have not begun, where the engine says that some wait: of those
        without a token the last that came."""
        num_waiting = {model: stat.num_waiting for model, stat in stats.items()}
        for generation in reversed(list(self._all())):
            model = generation.task.model.base
            if generation.timings.first_token is None and num_waiting.get(model, 0) > 0:
                num_waiting[model] -= generation.task.num_sequences
                generation.fail(error)

    def fail_all(self, error: ShoalError) -> None:
        for generation in list(self._all()):
            generation.fail(error)

    async def wait_for_none(self, model: str) -> None:
        """Returns when nothing of this model runs."""
        if self.of_model(model):
            await self._waiting.setdefault(model, asyncio.Event()).wait()

    def _all(self) -> Iterator[Generation]:
        for same_id in self._by_id.values():
            yield from same_id
