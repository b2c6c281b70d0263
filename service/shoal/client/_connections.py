"""The HTTP clients behind a client and its copies, and what remains of them after `close`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ._errors import ClientClosed


class Connections:
    """One HTTP client: ours if there is a `make`, else the user's, who closes it."""

    def __init__(self, http: Any, make: Callable[[], Any] | None) -> None:
        self.http = http
        self._make = make
        self._closed = False

    @property
    def are_ours(self) -> bool:
        return self._make is not None

    def current(self) -> Any:
        """The HTTP client to send with. Raises ClientClosed."""
        if self._closed:
            raise ClientClosed("the client was closed; make a new one, or close it later")
        if getattr(self.http, "is_closed", False):
            raise ClientClosed("the http_client was closed; make a new one, or close it later")
        return self.http

    def close(self) -> None:
        self._closed = True
        self.http.close()


class AsyncConnections(Connections):
    """The same for asyncio, where a connection belongs to the event loop it was opened in: each
    loop gets an HTTP client of its own, so that a client survives `asyncio.run`."""

    def __init__(self, http: Any, make: Callable[[], Any] | None) -> None:
        super().__init__(http, make)
        self._unused = [http]
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def current(self) -> Any:
        http = super().current()
        if self._make is None:
            return http
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self.http = self._by_loop[loop] = self._unused.pop() if self._unused else self._make()
        return self._by_loop[loop]

    async def close(self) -> None:  # type: ignore[override]  # its caller awaits it
        self._closed = True
        # Those of loops that have ended went with their loop.
        http = self._by_loop.get(asyncio.get_running_loop())
        for client in self._unused if http is None else [http]:
            await client.aclose()
