"""The asynchronous driver: does what `_flow.py` asks for, with an asyncio loop. It decides nothing.

Its twin is `_driver.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._collect import ChunkT, Collector, ResultT
from ._errors import Error
from ._flow import (
    Call,
    Flow,
    Reply,
    Send,
    Wait,
    envelope_of,
    finish,
    is_event_stream,
    lower_names,
    request_flow,
    stream_reader,
    warn_ignored,
)
from ._http import (
    AsyncHTTP,
    Warned,
    is_direct,
    library_of,
    limit_body_reads,
    make_async_http,
    translated,
)
from ._settings import UNSET, Settings, Unset
from ._stream_io import AsyncStream, OpenBody

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Pool:
    """The connections; shared by a client and its copies."""

    http: AsyncHTTP
    library: ModuleType
    brought: bool
    """By the user, who also closes it."""
    uds: str | None = None


@dataclass(frozen=True)
class AsyncDriver:
    """Settings and connections of one client."""

    settings: Settings
    pool: Pool
    closes_pool: bool
    warned: Warned = field(default_factory=Warned)

    def changed(
        self, settings: Settings, http_client: AsyncHTTP | Unset | None, uds: str | Unset | None
    ) -> AsyncDriver:
        """With other settings, and the same connections if those still fit."""
        if http_client is UNSET and uds is UNSET:
            if self.pool.brought or self._is_direct(settings) == self._is_direct(self.settings):
                return replace(self, settings=settings, closes_pool=False)
            uds = self.pool.uds
        return make_async_driver(
            settings,
            None if http_client is UNSET else http_client,
            None if uds is UNSET else uds,
            self.warned,
        )

    async def close(self) -> None:
        if self.closes_pool:
            await self.pool.http.aclose()

    async def run(self, call: Call[ResultT]) -> ResultT:
        """The result of a call that is not streamed."""
        reply = await self.drive(request_flow(call, self.settings))
        result = finish(call, reply)
        warn_ignored(envelope_of(reply), self.warned)
        return result

    async def run_stream(
        self, call: Call[ResultT], collector: Collector[ChunkT, ResultT]
    ) -> AsyncStream[ChunkT, ResultT]:
        """The stream of a call; its first bytes are here."""
        reply = await self.drive(request_flow(call, self.settings))
        stream = AsyncStream(
            reply.opened, stream_reader(call, collector, reply), envelope_of(reply)
        )
        warn_ignored(envelope_of(reply), self.warned)
        return stream

    async def run_raw(self, call: Call[Any]) -> httpx.Response:
        """The HTTP library's response to a call."""
        reply = await self.drive(request_flow(replace(call, raw=True), self.settings))
        response: httpx.Response = reply.opened
        return response

    async def drive(self, flow: Flow) -> Reply:
        """Does what the flow asks until it returns or raises."""
        try:
            step = next(flow)
            while True:
                try:
                    reply = await self._do(step)
                except Error as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            value: Reply = end.value
            return value

    async def _do(self, step: Send | Wait) -> Reply | None:
        if isinstance(step, Send):
            return await self._send(step)
        if (sleep := self.settings.clock.sleep) is None:
            await asyncio.sleep(step.seconds)
        else:
            sleep(step.seconds)
            await asyncio.sleep(0)
        return None

    async def _send(self, step: Send) -> Reply:
        http = self.pool.http
        request = http.build_request(
            step.method,
            step.url,
            content=step.content,
            headers=step.headers,
            timeout=step.limits.as_tuple(),
        )
        with translated(
            self.pool.library,
            step.limits,
            reading=step.read_phase,
            request_id=step.request.request_id,
            server=self.settings.base_url,
        ):
            response = await http.send(request, stream=True)
            try:
                limit_body_reads(request, step.limits.read_body)
                return await self._receive(step, response)
            except BaseException:
                await response.aclose()
                raise

    async def _receive(self, step: Send, response: Any) -> Reply:
        status, headers = response.status_code, lower_names(response.headers)
        streams = step.stream and 200 <= status < 300
        if step.raw:
            content = b"" if streams else await response.aread()
            return Reply(step, status, headers, content, opened=response)
        if streams and is_event_stream(headers):
            return Reply(
                step, status, headers, opened=await self._open_body(step, response, headers)
            )
        pieces: list[bytes] = []
        async for piece in response.aiter_bytes():
            pieces.append(piece)
            if late := step.past_deadline():
                raise late
        return Reply(step, status, headers, b"".join(pieces))

    async def _open_body(self, step: Send, response: Any, headers: Mapping[str, str]) -> OpenBody:
        body = OpenBody(
            response,
            response.aiter_bytes(),
            self.pool.library,
            step.limits,
            headers.get("x-request-id") or step.request.request_id,
            self.settings.base_url,
        )
        # Until a byte of the stream is here, a lost connection is worth another attempt.
        with body.translated():
            body.first = await anext(body.chunks, b"")
        return body

    def _is_direct(self, settings: Settings) -> bool:
        # Whether a proxy of the environment is used is fixed when connections are made.
        return is_direct(settings.base_url, self.pool.uds)


def make_async_driver(
    settings: Settings, http_client: AsyncHTTP | None, uds: str | None, warned: Warned
) -> AsyncDriver:
    """Opens connections, or takes those of the user's client. Raises TypeError, ValueError."""
    if http_client is not None and uds is not None:
        raise ValueError("give uds or http_client, not both: the client brings its own transport")
    http = make_async_http(settings.base_url, uds) if http_client is None else http_client
    pool = Pool(
        http, library_of(type(http), "AsyncClient"), brought=http_client is not None, uds=uds
    )
    return AsyncDriver(settings, pool, not pool.brought, warned)
