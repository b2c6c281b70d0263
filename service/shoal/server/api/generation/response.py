"""The ASGI response of one generation, streamed or whole.

The status line is sent with the first token or ping, so an earlier failure gets an HTTP error
status. When the response ends, its sequences are aborted and its reservation is released.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shoal.errors import ClientGone, InternalError, ShoalError
from shoal.server.admission import Reservation
from shoal.server.api.generation.outcome import record_outcome
from shoal.server.context import context_of
from shoal.server.middleware import send_error
from shoal.server.off_loop import off_loop
from shoal.server.services import Services
from shoal.server.sse import Headers
from shoal.server.stream_timer import StreamTimer
from shoal.text.delta import Delta
from shoal.text.generator import Generation

log = logging.getLogger("shoal.server")

_CHARS_PER_TRACE, _CHARS_PER_LOGPROB, _CHARS_PER_VECTOR_BYTE = 1000, 50, 3
_WHOLE_CHARS = 4 << 20
"""A larger answer is rendered choice by choice while it is sent, and never held as a whole."""
_PIECE_BYTES = 64 << 10
"""What is given to the connection at once: a reader that stops costs no more than this."""


class Renderer(Protocol):
    """Renders the answer of one endpoint, in its own framing."""

    stream_headers: Headers
    """Of a stream's response."""

    @property
    def ping(self) -> bytes:
        """Sent when a stream was silent for a while; clients ignore it."""
        ...

    def chunk(self, delta: Delta) -> bytes:
        """Events of one delta."""
        ...

    def closing(self, generation: Generation) -> bytes:
        """Events after the last delta, the end mark included."""
        ...

    def failed(self, error: ShoalError) -> bytes:
        """Events that end a stream which had begun."""
        ...

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        """The complete response; `deltas` has one entry per choice, in order."""
        ...


@runtime_checkable
class InPieces(Protocol):
    """A renderer of answers that may be large."""

    def pieces(self, deltas: list[Delta], generation: Generation) -> Iterator[bytes]:
        """The `body`, choice by choice."""
        ...


class GenerationResponse(Response):
    """Streams a submitted generation, or collects it into one body."""

    def __init__(
        self,
        services: Services,
        generation: Generation,
        reservation: Reservation,
        renderer: Renderer,
        *,
        stream: bool,
        ignored: list[str],
    ) -> None:
        super().__init__()
        self._services = services
        self._generation = generation
        self._reservation = reservation
        self._renderer = renderer
        self._stream = stream
        self._ignored = ignored
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        task = asyncio.current_task()
        assert task is not None, "ASGI applications run in a task"
        disconnect = asyncio.create_task(self._watch_disconnect(receive))
        outcome: ShoalError | None = None
        self._services.open_requests.add(task)
        self._services.running.add(context.request_id, context.tenant, self._generation)
        try:
            if self._stream:
                # In a separate task, which each chunk resumes directly; resuming this one goes
                # through the coroutines of all middleware.
                await asyncio.create_task(self._send_stream(send, context.send))
            else:
                await self._send_whole(send)
        except ShoalError as error:
            outcome = error
            await self._send_error(scope, send, error)
        except asyncio.CancelledError:
            outcome = ClientGone("the request was cancelled")
            raise
        except Exception:  # a bug: send an error in the documented format
            log.exception("answer failed", extra={"request_id": context.request_id})
            outcome = InternalError("the server failed on this request")
            await self._send_error(scope, send, outcome)
        finally:
            disconnect.cancel()
            self._generation.close()
            num_tokens = self._generation.usage.completion_tokens
            self._reservation.release(num_tokens, completed=outcome is None)
            self._services.open_requests.discard(task)
            self._services.running.remove(context.request_id, self._generation)
            record_outcome(self._services, self._generation, context, outcome)

    async def _send_whole(self, send: Send) -> None:
        generation = self._generation
        collected: dict[int, Delta] = {}
        async for deltas in generation:
            self._reservation.started()
            for delta in deltas:
                if (so_far := collected.get(delta.index)) is None:
                    delta.compact()
                    collected[delta.index] = delta
                else:
                    so_far.merge(delta)
        whole = [collected[index] for index in sorted(collected)]
        num_chars = sum(_num_chars(delta) for delta in whole)
        if num_chars > _WHOLE_CHARS and isinstance(self._renderer, InPieces):
            await self._send_in_pieces(send, self._renderer.pieces(whole, generation), num_chars)
            return
        body = await off_loop(num_chars, lambda: self._renderer.body(whole, generation))
        await self._start_whole(send, (b"content-length", str(len(body)).encode()))
        if len(body) <= _PIECE_BYTES:
            await self._send_last(send, body)
            return
        with self._timer() as timer:
            await self._send_piece(send, timer, body)
            await self._send_last(send, b"")

    async def _send_in_pieces(self, send: Send, pieces: Iterator[bytes], num_chars: int) -> None:
        """Sends what is too large to be held, piece by piece as the reader takes it."""
        await self._start_whole(send)
        with self._timer() as timer:
            while piece := await off_loop(num_chars, lambda: next(pieces, b"")):
                await self._send_piece(send, timer, piece)
            await self._send_last(send, b"")

    async def _start_whole(self, send: Send, *headers: tuple[bytes, bytes]) -> None:
        self._started = True
        decode_ms = round((time.monotonic() - self._first_token_time()) * 1000, 1)
        headers = (
            (b"content-type", b"application/json"),
            *headers,
            *self._timing_headers(),
            (b"x-decode-ms", str(decode_ms).encode()),
        )
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def _send_piece(self, send: Send, timer: StreamTimer, piece: bytes) -> None:
        for at in range(0, len(piece), _PIECE_BYTES):
            part = piece[at : at + _PIECE_BYTES]
            timer.sending_since = time.monotonic()
            await send({"type": "http.response.body", "body": part, "more_body": True})
        timer.sending_since = None

    def _timer(self) -> StreamTimer:
        stall_s = self._services.settings.stream_stall_timeout
        return StreamTimer(ping_s=0, stall_s=stall_s, on_silence=self._generation.interrupt_wait)

    async def _send_stream(self, send: Send, send_chunk: Send) -> None:
        """Sends chunks as deltas become ready, pings during silence, then the closing events.
        Raises ClientGone when a send stalls for too long."""
        settings = self._services.settings
        chunk, generation = self._renderer.chunk, self._generation
        with StreamTimer(
            ping_s=settings.keepalive_interval,
            stall_s=settings.stream_stall_timeout,
            on_silence=generation.interrupt_wait,
        ) as timer:
            while (deltas := await generation.wait()) != []:
                if not self._started:
                    await self._start(send)
                if deltas is None:
                    piece = self._renderer.ping
                else:
                    if deltas[0].progress is None:
                        self._reservation.started()
                    piece = chunk(deltas[0]) if len(deltas) == 1 else b"".join(map(chunk, deltas))
                timer.sending_since = timer.last_sent = time.monotonic()
                await send_chunk({"type": "http.response.body", "body": piece, "more_body": True})
                timer.sending_since = None
            await self._start(send)
            timer.sending_since = time.monotonic()
            await self._send_last(send, self._renderer.closing(generation))

    async def _start(self, send: Send) -> None:
        """Sends the status line, once."""
        if not self._started:
            self._started = True
            headers = [*self._renderer.stream_headers, *self._timing_headers()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_last(self, send: Send, piece: bytes) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": False})

    async def _send_error(self, scope: Scope, send: Send, error: ShoalError) -> None:
        if isinstance(error, ClientGone):
            return
        if self._started:
            if self._stream:
                await self._send_last(send, self._renderer.failed(error))
            # A whole answer that has begun can only be cut: its length or last chunk is missing.
        else:
            await send_error(scope, send, error)

    async def _watch_disconnect(self, receive: Receive) -> None:
        """Fails the generation when the client closes the connection."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._generation.fail(ClientGone("the client closed the connection"))

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


def _num_chars(delta: Delta) -> int:
    """About how long it is in an answer, but for its text."""
    return (
        len(delta.traces) * _CHARS_PER_TRACE
        + delta.num_logprobs * _CHARS_PER_LOGPROB
        + len(delta.embedding or b"") * _CHARS_PER_VECTOR_BYTE
    )
