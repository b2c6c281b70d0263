"""Sends calls over HTTP: attempts, retries, and reading what comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from shoal.client._calls import Call
from shoal.client._collect import ResultT
from shoal.client._concurrency import AsyncBody, sleep_async
from shoal.client._errors import Error
from shoal.client._exchange import Exchange, warn_ignored
from shoal.client._http import Session
from shoal.client._settings import Options

from .stream import AsyncStream


class AsyncHTTPClient(Protocol):
    """What is used of the HTTP client. Any: types of two libraries."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None, headers: Any, timeout: Any
    ) -> Any: ...

    async def send(self, request: Any, *, stream: bool) -> Any: ...

    async def aclose(self) -> None: ...


class AsyncClientOptions(Options, total=False):
    http_client: AsyncHTTPClient | None


class AsyncDriver(Session):
    """Sends the calls of one client."""

    async def close(self) -> None:
        if self.owns_connections:
            await self.connections.close()

    async def run(self, call: Call[ResultT]) -> ResultT:
        """The result of a call that is not streamed."""
        exchange = await self._send(call)
        result = exchange.result()
        warn_ignored(exchange.envelope, self.warned)
        return result

    async def run_stream(self, call: Call[ResultT]) -> AsyncStream[Any, ResultT]:
        """The stream of a call, once its first bytes have arrived."""
        exchange = await self._send(call)
        stream: AsyncStream[Any, ResultT] = AsyncStream(exchange)
        warn_ignored(exchange.envelope, self.warned)
        return stream

    async def run_raw(self, call: Call[Any]) -> Any:
        """The HTTP library's response to a call."""
        exchange = await self._send(replace(call, raw=True))
        return exchange.response

    async def _send(self, call: Call[ResultT]) -> Exchange[ResultT]:
        """Sends the call until there is a result; raises the error of the last attempt."""
        exchange = Exchange(call, self.settings, self.library)
        while True:
            try:
                await self._attempt(exchange)
                return exchange
            except Error as error:
                wait_s = exchange.next_attempt_in_s(error)
            await sleep_async(self.settings.clock, wait_s)

    async def _attempt(self, exchange: Exchange[Any]) -> None:
        http: AsyncHTTPClient = self.connections.current()
        request = http.build_request(**exchange.next_attempt())
        with exchange.errors_translated():
            response = await http.send(request, stream=True)
            try:
                exchange.head_received(response)
                await self._receive(exchange, response)
                exchange.check_status()
            except BaseException:
                await response.aclose()
                raise

    async def _receive(self, exchange: Exchange[Any], response: Any) -> None:
        if exchange.call.raw:
            exchange.content = b"" if exchange.streams else await response.aread()
        elif exchange.streams and exchange.envelope.is_event_stream:
            exchange.body = AsyncBody(response)
            # Until the first bytes are here, a lost connection is worth another attempt.
            with exchange.errors_translated(in_stream=True):
                exchange.content = await exchange.body.read()
        else:
            pieces: list[bytes] = []
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                exchange.time_left_s()
            exchange.content = b"".join(pieces)
