"""Streams as the user sees them: chunks of a generation while it runs.

Whatever ends a stream closes its connection, so that the server stops generating: the last
chunk, `close`, `break`, an error, a cancelled task, or the last reference going away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.client._collect import ChunkT, ResultT
from shoal.client._errors import ConnectionFailed, Error
from shoal.client._stream import BaseStream


class AsyncStream(BaseStream[ChunkT, ResultT]):
    """Chunks of a generation while it runs: an iterator and a context manager."""

    async def __aiter__(self) -> AsyncIterator[ChunkT]:
        # A generator, so that leaving the loop with `break` closes the connection.
        try:
            while (chunk := await anext(self, None)) is not None:
                yield chunk
        finally:
            await self.close()

    async def __anext__(self) -> ChunkT:
        try:
            while not self._closed:
                chunk = self._next_chunk()
                if chunk is not None:
                    return chunk
                if self._done:
                    await self._read_end()
                    break
                await self._read()
        except BaseException:  # whatever it is: nothing more is needed from the server
            await self.close()
            raise
        await self.close()
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncStream[ChunkT, ResultT]:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def text_deltas(self, index: int = 0) -> AsyncIterator[str]:
        """Pieces of one choice's text as they arrive."""
        self._check_index(index)
        return (text async for chunk in self if (text := chunk.text_of(index)))

    async def final(self) -> ResultT:
        """Reads to the end and returns the complete result, as the plain call would have."""
        async for _ in self:
            pass
        return self._whole()

    async def close(self) -> None:
        """Ends the stream; may be called twice, and while another thread or task reads."""
        if not self._closed:
            self._closed = True
            await self._exchange.body.close(is_complete=self._done)

    async def _read(self) -> None:
        self._before_read()
        data, self._first = self._first, None
        cause = None
        if data is None:
            try:
                data = await self._next_bytes()
            except ConnectionFailed as error:
                data, cause = b"", error
        self._feed(data, cause)

    async def _next_bytes(self) -> bytes:
        with self._exchange.errors_translated(in_stream=True):
            try:
                return bytes(await self._exchange.body.read())
            except self._exchange.library.StreamError:  # closed meanwhile by another thread or task
                return b""

    async def _read_end(self) -> None:
        # The end of the body follows [DONE] at once; once it is read, the connection can be used
        # again. If the body goes on instead, `close` ends it.
        try:
            await self._next_bytes()
        except Error:
            pass  # all chunks are here; only the connection is lost
