"""Sends calls over HTTP: attempts, retries, and reading what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Protocol

from shoal.client._calls import Call
from shoal.client._collect import ResultT
from shoal.client._concurrency import AsyncBody, sleep_async
from shoal.client._errors import ConnectionFailed, Error, Timeout
from shoal.client._http import bypasses_proxy, library_of, make_http_client
from shoal.client._request import Reply, Request, warn_ignored
from shoal.client._settings import Options, Settings

from .stream import AsyncStream


class AsyncHTTP(Protocol):
    """What is used of the HTTP client. Any: types of two libraries."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None, headers: Any, timeout: Any
    ) -> Any: ...

    async def send(self, request: Any, *, stream: bool) -> Any: ...

    async def aclose(self) -> None: ...


class AsyncClientOptions(Options, total=False):
    http_client: AsyncHTTP | None


@dataclass(frozen=True)
class AsyncDriver:
    """Settings and connections of one client."""

    settings: Settings
    http: AsyncHTTP
    """Shared by a client and its copies, as are `library`, `user_provided`, `uds`, `warned`."""
    library: ModuleType
    user_provided: bool
    """The HTTP client is the user's, who closes it."""
    uds: str | None
    owns_http: bool
    warned: set[str] = field(default_factory=set)
    """Ignored parameters that were warned about."""

    def changed(self, options: AsyncClientOptions) -> AsyncDriver:
        """A copy with other settings, on the same connections if those still fit."""
        settings = self.settings.changed(options)
        # Whether a proxy of the environment is used is fixed when connections are made.
        same_route = self.user_provided or (
            bypasses_proxy(settings.base_url, self.uds)
            == bypasses_proxy(self.settings.base_url, self.uds)
        )
        if same_route and not options.keys() & {"http_client", "uds"}:
            return replace(self, settings=settings, owns_http=False)
        uds = options.get("uds", None if "http_client" in options else self.uds)
        driver = open_driver(settings, options.get("http_client"), uds)
        return replace(driver, warned=self.warned)

    async def close(self) -> None:
        if self.owns_http:
            await self.http.aclose()

    async def run(self, call: Call[ResultT]) -> ResultT:
        """The result of a call that is not streamed."""
        request, reply = await self._send(call)
        result = request.result(reply)
        warn_ignored(reply.envelope, self.warned)
        return result

    async def run_stream(self, call: Call[ResultT]) -> AsyncStream[Any, ResultT]:
        """The stream of a call, once its first bytes have arrived."""
        request, reply = await self._send(call)
        stream: AsyncStream[Any, ResultT] = AsyncStream(request, reply)
        warn_ignored(reply.envelope, self.warned)
        return stream

    async def run_raw(self, call: Call[Any]) -> Any:
        """The HTTP library's response to a call."""
        _, reply = await self._send(replace(call, raw=True))
        return reply.response

    async def _send(self, call: Call[ResultT]) -> tuple[Request[ResultT], Reply]:
        """Sends the call until there is a result; raises the error of the last attempt."""
        request = Request(call, self.settings, self.library)
        attempt = 0
        while True:
            failure: Error
            reply = None
            try:
                reply = await self._attempt(request, attempt)
                if request.accepts(reply.envelope):
                    return request, reply
                failure = request.status_error(reply)
            except (ConnectionFailed, Timeout) as error:
                failure = error
            wait_s = request.next_attempt_in_s(failure, attempt, reply)
            await sleep_async(self.settings.clock, wait_s)
            attempt += 1

    async def _attempt(self, request: Request[Any], number: int) -> Reply:
        http_request = self.http.build_request(**request.attempt(number))
        with request.errors_translated():
            response = await self.http.send(http_request, stream=True)
            try:
                return await self._receive(request, response)
            except BaseException:
                await response.aclose()
                raise

    async def _receive(self, request: Request[Any], response: Any) -> Reply:
        call, envelope = request.call, request.head_received(response)
        streams = call.stream and envelope.is_success
        if call.raw:
            content = b"" if streams else await response.aread()
            return Reply(envelope, content, response=response)
        content_type = envelope.headers.get("content-type", "").lower()
        if streams and content_type.startswith("text/event-stream"):
            body = AsyncBody(response)
            # Until the first bytes are here, a lost connection is worth another attempt.
            with request.errors_translated(in_stream=True):
                return Reply(envelope, await body.read(), body=body)
        pieces: list[bytes] = []
        async for piece in response.aiter_bytes():
            pieces.append(piece)
            request.time_left_s()
        return Reply(envelope, b"".join(pieces))


def open_driver(settings: Settings, http_client: AsyncHTTP | None, uds: str | None) -> AsyncDriver:
    """On connections of its own or the user's. Raises TypeError, ValueError, ConnectionFailed."""
    if http_client is None:
        http: AsyncHTTP = make_http_client("AsyncClient", settings.base_url, uds)
    elif uds is None:
        http = http_client
    else:
        raise ValueError("give uds or http_client, not both: the client brings its own transport")
    library, is_ours = library_of(type(http), "AsyncClient"), http_client is None
    return AsyncDriver(settings, http, library, not is_ours, uds, owns_http=is_ours)
