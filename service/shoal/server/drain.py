"""The end of a server: it says so, finishes what runs, takes nothing new, and ends the rest openly.

After SIGTERM, which deployments send, it answers for `shutdown_delay` more, with 503: whoever sends
requests here sees first that `/readyz` says no. SIGINT, which people send, does not wait for that.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine

from shoal.server.services import Services, shutting_down

log = logging.getLogger("shoal.server")

LAST_ANSWERS_S = 0.5
"""How long the last answers may take, error events among them."""


class Drain:
    """Begins with the first signal; the second cuts it short."""

    def __init__(self, services: Services, stop: asyncio.Event) -> None:
        """`stop`: set by whoever else wants the server to end; then nothing is delayed."""
        self._services = services
        self._stop = stop
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._num_signals = 0
        self._delay_s = 0.0

    def on_signal(self, number: int) -> bool:
        """False = it is the third: the server is to end without a word."""
        services = self._services
        self._num_signals += 1
        if self._num_signals == 1 and number == signal.SIGTERM and services.client.loaded:
            self._delay_s = services.settings.shutdown_delay
        services.draining = True
        wake = self._stop if self._num_signals == 1 else self._hurry
        self._loop.call_soon_threadsafe(wake.set)
        return self._num_signals < 3

    async def run(self) -> None:
        """Waits until the end is wanted, then for what runs; returns when the server may go."""
        await self._stop.wait()
        services, began = self._services, self._loop.time()
        services.draining = True
        log.info("draining", extra={"open_requests": len(services.open_requests)})
        services.running.fail_waiting(services.client.stats, shutting_down())
        await self._at_most(asyncio.sleep(self._delay_s), self._delay_s)
        limit_s = services.settings.drain_timeout - (self._loop.time() - began)
        await self._at_most(self._last_request(), limit_s)
        if services.open_requests:
            services.running.fail_all(shutting_down())
            closing = asyncio.create_task(services.client.close())  # also ends what else is open
            await asyncio.wait(services.open_requests, timeout=LAST_ANSWERS_S)
            await closing

    async def _last_request(self) -> None:
        while self._services.open_requests:
            await asyncio.wait(self._services.open_requests)

    async def _at_most(self, what: Coroutine[None, None, None], limit_s: float) -> None:
        """Waits for it, no longer than the limit, and not after a second signal."""
        waits = [asyncio.create_task(what), asyncio.create_task(self._hurried())]
        try:
            await asyncio.wait(
                waits, timeout=max(0.0, limit_s), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in waits:
                task.cancel()

    async def _hurried(self) -> None:
        await self._hurry.wait()
