# Generated from _async/driver.py by deploy/generate_sync_client.py; to update: make fix
"""Sends calls over HTTP: attempts, retries, and reading what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Protocol

from shoal.client._calls import Call
from shoal.client._collect import ResultT
from shoal.client._concurrency import Body, sleep
from shoal.client._errors import ConnectionFailed, Error, Timeout
from shoal.client._http import bypasses_proxy, library_of, make_http_client
from shoal.client._request import Reply, Request, warn_ignored
from shoal.client._settings import Options, Settings

from .stream import Stream


class HTTP(Protocol):
    """What is used of the HTTP client. Any: types of two libraries."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None, headers: Any, timeout: Any
    ) -> Any: ...

    def send(self, request: Any, *, stream: bool) -> Any: ...

    def close(self) -> None: ...


class ClientOptions(Options, total=False):
    http_client: HTTP | None


@dataclass(frozen=True)
class Driver:
    """Settings and connections of one client."""

    settings: Settings
    http: HTTP
    """Shared by a client and its copies, as are `library`, `user_provided`, `uds`, `warned`."""
    library: ModuleType
    user_provided: bool
    """The HTTP client is the user's, who closes it."""
    uds: str | None
    owns_http: bool
    warned: set[str] = field(default_factory=set)
    """Ignored parameters that were warned about."""

    def changed(self, options: ClientOptions) -> Driver:
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

    def close(self) -> None:
        if self.owns_http:
            self.http.close()

    def run(self, call: Call[ResultT]) -> ResultT:
        """The result of a call that is not streamed."""
        request, reply = self._send(call)
        result = request.result(reply)
        warn_ignored(reply.envelope, self.warned)
        return result

    def run_stream(self, call: Call[ResultT]) -> Stream[Any, ResultT]:
        """The stream of a call, once its first bytes have arrived."""
        request, reply = self._send(call)
        stream: Stream[Any, ResultT] = Stream(request, reply)
        warn_ignored(reply.envelope, self.warned)
        return stream

    def run_raw(self, call: Call[Any]) -> Any:
        """The HTTP library's response to a call."""
        _, reply = self._send(replace(call, raw=True))
        return reply.response

    def _send(self, call: Call[ResultT]) -> tuple[Request[ResultT], Reply]:
        """Sends the call until there is a result; raises the error of the last attempt."""
        request = Request(call, self.settings, self.library)
        attempt = 0
        while True:
            failure: Error
            reply = None
            try:
                reply = self._attempt(request, attempt)
                if request.accepts(reply.envelope):
                    return request, reply
                failure = request.status_error(reply)
            except (ConnectionFailed, Timeout) as error:
                failure = error
            wait_s = request.next_attempt_in_s(failure, attempt, reply)
            sleep(self.settings.clock, wait_s)
            attempt += 1

    def _attempt(self, request: Request[Any], number: int) -> Reply:
        http_request = self.http.build_request(**request.attempt(number))
        with request.errors_translated():
            response = self.http.send(http_request, stream=True)
            try:
                return self._receive(request, response)
            except BaseException:
                response.close()
                raise

    def _receive(self, request: Request[Any], response: Any) -> Reply:
        call, envelope = request.call, request.head_received(response)
        streams = call.stream and envelope.is_success
        if call.raw:
            content = b"" if streams else response.read()
            return Reply(envelope, content, response=response)
        content_type = envelope.headers.get("content-type", "").lower()
        if streams and content_type.startswith("text/event-stream"):
            body = Body(response)
            # Until the first bytes are here, a lost connection is worth another attempt.
            with request.errors_translated(in_stream=True):
                return Reply(envelope, body.read(), body=body)
        pieces: list[bytes] = []
        for piece in response.iter_bytes():
            pieces.append(piece)
            request.time_left_s()
        return Reply(envelope, b"".join(pieces))


def open_driver(settings: Settings, http_client: HTTP | None, uds: str | None) -> Driver:
    """On connections of its own or the user's. Raises TypeError, ValueError, ConnectionFailed."""
    if http_client is None:
        http: HTTP = make_http_client("Client", settings.base_url, uds)
    elif uds is None:
        http = http_client
    else:
        raise ValueError("give uds or http_client, not both: the client brings its own transport")
    library, is_ours = library_of(type(http), "Client"), http_client is None
    return Driver(settings, http, library, not is_ours, uds, owns_http=is_ours)
