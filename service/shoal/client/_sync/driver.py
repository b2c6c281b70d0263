# Generated from _async/driver.py by deploy/generate_sync_client.py; to update: make fix
"""Sends calls over HTTP: attempts, retries, and reading what comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from shoal.client._calls import Call
from shoal.client._collect import ResultT
from shoal.client._concurrency import Body, sleep
from shoal.client._errors import Error
from shoal.client._exchange import Exchange, warn_ignored
from shoal.client._http import Session
from shoal.client._settings import Options

from .stream import Stream


class HTTPClient(Protocol):
    """What is used of the HTTP client. Any: types of two libraries."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None, headers: Any, timeout: Any
    ) -> Any: ...

    def send(self, request: Any, *, stream: bool) -> Any: ...

    def close(self) -> None: ...


class ClientOptions(Options, total=False):
    http_client: HTTPClient | None


class Driver(Session):
    """Sends the calls of one client."""

    def close(self) -> None:
        if self.owns_connections:
            self.connections.close()

    def run(self, call: Call[ResultT]) -> ResultT:
        """The result of a call that is not streamed."""
        exchange = self._send(call)
        result = exchange.result()
        warn_ignored(exchange.envelope, self.warned)
        return result

    def run_stream(self, call: Call[ResultT]) -> Stream[Any, ResultT]:
        """The stream of a call, once its first bytes have arrived."""
        exchange = self._send(call)
        stream: Stream[Any, ResultT] = Stream(exchange)
        warn_ignored(exchange.envelope, self.warned)
        return stream

    def run_raw(self, call: Call[Any]) -> Any:
        """The HTTP library's response to a call."""
        exchange = self._send(replace(call, raw=True))
        return exchange.response

    def _send(self, call: Call[ResultT]) -> Exchange[ResultT]:
        """Sends the call until there is a result; raises the error of the last attempt."""
        exchange = Exchange(call, self.settings, self.library)
        while True:
            try:
                self._attempt(exchange)
                return exchange
            except Error as error:
                wait_s = exchange.next_attempt_in_s(error)
            sleep(self.settings.clock, wait_s)

    def _attempt(self, exchange: Exchange[Any]) -> None:
        http: HTTPClient = self.connections.current()
        request = http.build_request(**exchange.next_attempt())
        with exchange.errors_translated():
            response = http.send(request, stream=True)
            try:
                exchange.head_received(response)
                self._receive(exchange, response)
                exchange.check_status()
            except BaseException:
                response.close()
                raise

    def _receive(self, exchange: Exchange[Any], response: Any) -> None:
        if exchange.call.raw:
            exchange.content = b"" if exchange.streams else response.read()
        elif exchange.streams and exchange.envelope.is_event_stream:
            exchange.body = Body(response)
            # Until the first bytes are here, a lost connection is worth another attempt.
            with exchange.errors_translated(in_stream=True):
                exchange.content = exchange.body.read()
        else:
            pieces: list[bytes] = []
            for piece in response.iter_bytes():
                pieces.append(piece)
                exchange.time_left_s()
            exchange.content = b"".join(pieces)
