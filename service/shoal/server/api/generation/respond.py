"""Answers one generation, streamed or whole, as an ASGI response.

The status line waits for the first token or the first ping, so what fails before that is a real
HTTP error. Whatever ends the response, the sequences are aborted and the places given back.
"""

import asyncio
import logging
import time
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shoal.errors import ClientGone, InternalError, ShoalError
from shoal.server import sse
from shoal.server.admission import Ticket
from shoal.server.context import RequestContext, context_of
from shoal.server.errors import error_bytes
from shoal.server.middleware import send_error
from shoal.server.services import Services
from shoal.text.generator import Delta, Generation

log = logging.getLogger("shoal.server")


class Renderer(Protocol):
    """The JSON of one endpoint."""

    def chunk(self, delta: Delta) -> bytes:
        """SSE records of one delta."""
        ...

    def closing(self, generation: Generation) -> bytes:
        """SSE records after the last delta, before [DONE]."""
        ...

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        """The whole answer; `deltas` has one entry per choice, in order."""
        ...


class GenerationResponse(Response):
    """Streams a submitted generation, or drains it into one body."""

    def __init__(
        self,
        services: Services,
        generation: Generation,
        ticket: Ticket,
        renderer: Renderer,
        *,
        stream: bool,
        ignored: list[str],
    ) -> None:
        super().__init__()
        self._services = services
        self._generation = generation
        self._ticket = ticket
        self._renderer = renderer
        self._stream = stream
        self._ignored = ignored
        self._started = False
        self._admitted = False
        self._ping_ends: asyncio.Event | None = None
        """Set while a ping is under way: a chunk waits for its end. The other way round a ping
        is left out, since what is being sent shows the reader as much."""
        self._last_sent = time.monotonic()
        self._sending_since: float | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stalled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        self._task = asyncio.current_task()
        helpers = [asyncio.create_task(self._watch_disconnect(receive))]
        if self._stream:
            helpers.append(asyncio.create_task(self._watch_stall()))
            if self._services.settings.keepalive_interval:
                helpers.append(asyncio.create_task(self._ping(send)))
        outcome: ShoalError | None = None
        if self._task is not None:
            self._services.open_requests.add(self._task)
        try:
            if self._stream:
                # In a task of its own: each chunk wakes its reader, and here a wake-up would pass
                # through every layer that called this one.
                await asyncio.create_task(self._send_stream(send, context.send))
            else:
                await self._send_whole(send)
        except ShoalError as error:
            outcome = error
            await self._send_error(send, error)
        except asyncio.CancelledError:
            outcome = ClientGone("the reader stalled or the request was cancelled")
            if not self._stalled or self._task is None:
                raise
            self._task.uncancel()
        except Exception:  # a mistake of ours: answered in the documented shape, never a bare cut
            log.exception("answer failed", extra={"request_id": context.request_id})
            outcome = InternalError("the server failed on this request")
            await self._send_error(send, outcome)
        finally:
            for helper in helpers:
                helper.cancel()
            self._generation.close()
            self._ticket.leave(None if outcome else self._generation.usage.completion_tokens)
            if self._task is not None:
                self._services.open_requests.discard(self._task)
            self._note(context, outcome)

    async def _send_whole(self, send: Send) -> None:
        generation = self._generation
        collected: dict[int, Delta] = {}
        async for deltas in generation:
            self._ticket.started()
            for delta in deltas:
                if (so_far := collected.get(delta.index)) is None:
                    collected[delta.index] = delta
                else:
                    so_far.merge(delta)
        body = self._renderer.body([collected[index] for index in sorted(collected)], generation)
        decode_ms = round((time.monotonic() - self._first_token_time()) * 1000, 1)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    *self._timing_headers(),
                    (b"x-decode-ms", str(decode_ms).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, send: Send, send_chunk: Send) -> None:
        chunk = self._renderer.chunk
        async for deltas in self._generation:
            if not self._admitted:
                self._admitted = True
                self._ticket.started()
            if not self._started:
                await self._start(send)
            piece = chunk(deltas[0]) if len(deltas) == 1 else b"".join(map(chunk, deltas))
            if self._ping_ends is not None:
                await self._ping_ends.wait()
            self._sending_since = self._last_sent = time.monotonic()
            await send_chunk({"type": "http.response.body", "body": piece, "more_body": True})
            self._sending_since = None
        if not self._started:
            await self._start(send)
        await self._send_last(send, self._renderer.closing(self._generation) + sse.DONE)

    async def _start(self, send: Send) -> None:
        """The status line, once."""
        if not self._started:
            self._started = True
            headers = [*sse.HEADERS, *self._timing_headers()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_last(self, send: Send, piece: bytes) -> None:
        if self._ping_ends is not None:
            await self._ping_ends.wait()
        self._sending_since = time.monotonic()
        await send({"type": "http.response.body", "body": piece, "more_body": False})
        self._sending_since = None

    async def _send_error(self, send: Send, error: ShoalError) -> None:
        if isinstance(error, ClientGone):
            return
        if self._started:
            await self._send_last(send, sse.event(error_bytes(error)) + sse.DONE)
        else:
            await send_error(send, error)

    async def _watch_disconnect(self, receive: Receive) -> None:
        """A closed connection ends the generation within one step."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._generation.fail(ClientGone("the client closed the connection"))

    async def _ping(self, send: Send) -> None:
        """A comment after every interval of silence, in queue, prefill and decode."""
        interval_s = self._services.settings.keepalive_interval
        while True:
            wait_s = self._last_sent + interval_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                self._last_sent = time.monotonic()
                if self._sending_since is None:
                    await self._send_ping(send)

    async def _send_ping(self, send: Send) -> None:
        self._ping_ends = asyncio.Event()
        try:
            await self._start(send)
            self._sending_since = time.monotonic()
            await send({"type": "http.response.body", "body": sse.PING, "more_body": True})
            self._sending_since = None
        finally:
            self._ping_ends.set()
            self._ping_ends = None

    async def _watch_stall(self) -> None:
        """Ends a stream whose reader takes nothing, be it a chunk or a ping."""
        limit_s = self._services.settings.stream_stall_timeout
        while True:
            since = self._sending_since
            stalled_s = 0.0 if since is None else time.monotonic() - since
            if stalled_s >= limit_s and self._task is not None:
                self._stalled = True
                self._task.cancel()
                return
            await asyncio.sleep(max(limit_s - stalled_s, limit_s / 10))

    def _timing_headers(self) -> list[tuple[bytes, bytes]]:
        timings = self._generation.timings
        headers = []
        if timings.first_token is not None:
            headers += [
                (b"x-queue-ms", str(round(timings.queue_s * 1000, 1)).encode()),
                (b"x-prefill-ms", str(round(timings.prefill_s * 1000, 1)).encode()),
            ]
        if self._ignored:
            headers.append((b"x-ignored-params", ",".join(self._ignored).encode()))
        return headers

    def _first_token_time(self) -> float:
        timings = self._generation.timings
        return timings.first_token if timings.first_token is not None else time.monotonic()

    def _note(self, context: RequestContext, outcome: ShoalError | None) -> None:
        """Numbers of the request for the access log and the metrics."""
        usage, timings, metrics = (
            self._generation.usage, self._generation.timings, self._services.metrics,
        )  # fmt: skip
        model = self._ticket.model
        now = time.monotonic()
        context.log_fields.update(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        )
        metrics.prompt_tokens.labels(model).inc(usage.prompt_tokens)
        metrics.cached_tokens.labels(model).inc(usage.cached_tokens)
        metrics.request_seconds.labels(model).observe(now - timings.submitted)
        if timings.first_token is not None:
            ttft_s = timings.first_token - timings.submitted
            context.log_fields["ttft_ms"] = round(ttft_s * 1000, 1)
            metrics.ttft.labels(model).observe(ttft_s)
            metrics.queue_seconds.labels(model).observe(timings.queue_s)
            per_choice = usage.completion_tokens / self._generation.task.num_sequences
            if per_choice > 1:
                gap_s = (now - timings.first_token) / (per_choice - 1)
                metrics.inter_token.labels(model).observe(gap_s)
        if outcome is not None:
            context.log_fields["error"] = outcome.code
            reason = "disconnect" if isinstance(outcome, ClientGone) else str(outcome.code)
            metrics.cancelled.labels(model, reason).inc()
            if isinstance(outcome, ClientGone):
                context.log_fields["status"] = outcome.status
