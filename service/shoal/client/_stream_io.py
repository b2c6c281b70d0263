"""Streams as the caller sees them: they pull bytes from the HTTP library into a `StreamReader`.

Whatever ends a stream closes its connection, so that the server stops working on it: the last
chunk, `close`, `break`, an error, a cancelled task, or nobody holding it any more.
"""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Generic

from ._collect import ChunkT, ResultT
from ._errors import ConnectionFailed, Error, StreamInterrupted
from ._http import SocketLimits, cut_connection, translated
from ._stream import StreamReader
from ._types import Envelope, Timings, Usage


@dataclass
class OpenBody:
    """A response whose body is still to come. Any: the types of two HTTP libraries."""

    response: Any
    chunks: Any
    """Iterator over its bytes; async in the async client."""
    library: ModuleType
    limits: SocketLimits
    request_id: str
    server: str
    first: bytes = b""
    """Already read; b"" if the body had nothing."""

    def translated(self) -> AbstractContextManager[None]:
        return translated(
            self.library,
            self.limits,
            reading="between_data",
            request_id=self.request_id,
            server=self.server,
        )


class _StreamView(Generic[ChunkT, ResultT]):
    """What both kinds of stream show of themselves."""

    def __init__(
        self, body: OpenBody, reader: StreamReader[ChunkT, ResultT], envelope: Envelope
    ) -> None:
        self._body = body
        self._reader = reader
        self._envelope = envelope
        self._first: bytes | None = body.first
        self._closed = False

    def __repr__(self) -> str:
        state = "whole" if self._reader.done else "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self.request_id}, {state}>"

    @property
    def text(self) -> str:
        """Text of the first choice so far."""
        return self._reader.collector.text

    @property
    def usage(self) -> Usage | None:
        """Token counts; comes at the end of the stream, None until then."""
        return self._reader.collector.usage

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def request_id(self) -> str | None:
        return self._envelope.request_id

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers, names in lower case."""
        return self._envelope.headers

    @property
    def timings(self) -> Timings:
        return self._envelope.timings(self._reader.collector.ext)

    @property
    def ignored_params(self) -> tuple[str, ...]:
        return self._envelope.ignored_params

    def _check_index(self, index: int) -> None:
        num_choices = self._reader.collector.num_choices
        if not 0 <= index < num_choices:
            raise IndexError(f"the stream has {num_choices} choices; got index {index}")

    def _whole(self) -> ResultT:
        if not self._reader.done:
            raise StreamInterrupted(
                "the stream was closed before its end", text=self.text, request_id=self.request_id
            )
        result = self._reader.collector.result()
        result.with_envelope(self._envelope)
        return result

    def _lost(self, error: ConnectionFailed) -> None:
        if not self._closed:  # else it was us who cut it, in another thread or task
            self._reader.end(error)


class Stream(_StreamView[ChunkT, ResultT]):
    """Chunks of a generation while it runs: an iterator and a context manager."""

    def __iter__(self) -> Iterator[ChunkT]:
        # A generator, so that leaving the loop with `break` closes the connection.
        try:
            while True:
                try:
                    chunk = next(self)
                except StopIteration:
                    return
                yield chunk
        finally:
            self.close()

    def __next__(self) -> ChunkT:
        try:
            while not self._closed:
                chunk = self._reader.next_chunk()
                if chunk is not None:
                    return chunk
                if self._reader.done:
                    self._drain()
                    break
                self._read()
        except BaseException:  # whatever it is: nothing more is wanted from the server
            self.close()
            raise
        self.close()
        raise StopIteration

    def __enter__(self) -> Stream[ChunkT, ResultT]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        # The collector may run us inside the HTTP library's pool, which holds its lock then:
        # closing here could wait for ourselves. So another thread gets everything that is open.
        # `_thread`, because `threading` has locks too.
        try:
            _thread.start_new_thread(_close_forgotten, (self._body,))
        except RuntimeError:
            pass  # the interpreter is ending, and the socket with it

    def text_deltas(self, index: int = 0) -> Iterator[str]:
        """Pieces of one choice's text as they come."""
        self._check_index(index)
        return (text for chunk in self if (text := chunk.text_of(index)))

    def final(self) -> ResultT:
        """Reads to the end and returns the whole result, as the plain call would have."""
        for _ in self:
            pass
        return self._whole()

    def close(self) -> None:
        """Ends the stream; may be called twice, and while another thread or task reads."""
        if self._closed:
            return
        self._closed = True
        if not self._reader.done:
            cut_connection(self._body.response)
        self._body.response.close()

    def _read(self) -> None:
        self._reader.before_read()
        try:
            data = self._next_bytes()
        except ConnectionFailed as error:
            self._lost(error)
            return
        if data:
            self._reader.feed(data)
        elif not self._closed:
            self._reader.end()

    def _next_bytes(self) -> bytes:
        if self._first is not None:
            data, self._first = self._first, None
            return data
        with self._body.translated():
            try:
                return bytes(next(self._body.chunks, b""))
            except self._body.library.StreamError:  # closed in another thread meanwhile
                return b""

    def _drain(self) -> None:
        # The end of the body follows [DONE] at once; having read it, the connection can be used
        # again. A body that goes on is cut by `close`.
        try:
            with self._body.translated():
                next(self._body.chunks, b"")
        except Error:
            pass  # all chunks are here; only the connection is lost


class AsyncStream(_StreamView[ChunkT, ResultT]):
    """Chunks of a generation while it runs: an async iterator and context manager."""

    def __init__(
        self, body: OpenBody, reader: StreamReader[ChunkT, ResultT], envelope: Envelope
    ) -> None:
        super().__init__(body, reader, envelope)
        self._loop = asyncio.get_running_loop()

    async def __aiter__(self) -> AsyncIterator[ChunkT]:
        # A generator, so that leaving the loop with `break` closes the connection.
        try:
            while True:
                try:
                    chunk = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield chunk
        finally:
            await self.close()

    async def __anext__(self) -> ChunkT:
        try:
            while not self._closed:
                chunk = self._reader.next_chunk()
                if chunk is not None:
                    return chunk
                if self._reader.done:
                    await self._drain()
                    break
                await self._read()
        except BaseException:  # whatever it is: nothing more is wanted from the server
            await self.close()
            raise
        await self.close()
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncStream[ChunkT, ResultT]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._loop.is_closed():
            return
        # Only the loop may close it, and the collector may run anywhere.
        self._loop.call_soon_threadsafe(_begin_closing, self._loop, self._body)

    def text_deltas(self, index: int = 0) -> AsyncIterator[str]:
        """Pieces of one choice's text as they come."""
        self._check_index(index)
        return self._text_deltas(index)

    async def _text_deltas(self, index: int) -> AsyncIterator[str]:
        try:
            async for chunk in self:
                if text := chunk.text_of(index):
                    yield text
        finally:
            await self.close()

    async def final(self) -> ResultT:
        """Reads to the end and returns the whole result, as the plain call would have."""
        async for _ in self:
            pass
        return self._whole()

    async def close(self) -> None:
        """Ends the stream; may be called twice, and while another thread or task reads."""
        if self._closed:
            return
        self._closed = True
        await _close_body(self._body)

    async def _read(self) -> None:
        self._reader.before_read()
        try:
            data = await self._next_bytes()
        except ConnectionFailed as error:
            self._lost(error)
            return
        if data:
            self._reader.feed(data)
        elif not self._closed:
            self._reader.end()

    async def _next_bytes(self) -> bytes:
        if self._first is not None:
            data, self._first = self._first, None
            return data
        with self._body.translated():
            try:
                return bytes(await anext(self._body.chunks, b""))
            except self._body.library.StreamError:  # closed in another task meanwhile
                return b""

    async def _drain(self) -> None:
        try:
            with self._body.translated():
                await anext(self._body.chunks, b"")
        except Error:
            pass  # all chunks are here; only the connection is lost


_closing: set[asyncio.Task[None]] = set()
"""The loop holds its tasks only weakly."""


async def _close_body(body: OpenBody) -> None:
    await body.response.aclose()
    try:
        await body.chunks.aclose()
    except RuntimeError:
        pass  # another task waits in it right now, and wakes up to the closed connection


def _begin_closing(loop: asyncio.AbstractEventLoop, body: OpenBody) -> None:
    task = loop.create_task(_close_body(body))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _close_forgotten(body: OpenBody) -> None:
    cut_connection(body.response)
    body.response.close()
