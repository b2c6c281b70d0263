# Generated from _async/stream.py by deploy/generate_sync_client.py; to update: make fix
"""Streams as the user sees them: chunks of a generation while it runs.

Whatever ends a stream closes its connection, so that the server stops generating: the last
chunk, `close`, `break`, an error, a cancelled task, or the last reference going away.
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.client._collect import ChunkT, ResultT
from shoal.client._errors import ConnectionFailed, Error
from shoal.client._stream import BaseStream


class Stream(BaseStream[ChunkT, ResultT]):
    """Chunks of a generation while it runs: an iterator and a context manager."""

    def __iter__(self) -> Iterator[ChunkT]:
        # A generator, so that leaving the loop with `break` closes the connection.
        try:
            while (chunk := next(self, None)) is not None:
                yield chunk
        finally:
            self.close()

    def __next__(self) -> ChunkT:
        try:
            while not self._closed:
                chunk = self._next_chunk()
                if chunk is not None:
                    return chunk
                if self._done:
                    self._read_end()
                    break
                self._read()
        except BaseException:  # whatever it is: nothing more is needed from the server
            self.close()
            raise
        self.close()
        raise StopIteration

    def __enter__(self) -> Stream[ChunkT, ResultT]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def text_deltas(self, index: int = 0) -> Iterator[str]:
        """Pieces of one choice's text as they arrive."""
        self._check_index(index)
        return (text for chunk in self if (text := chunk.text_of(index)))

    def final(self) -> ResultT:
        """Reads to the end and returns the complete result, as the plain call would have."""
        for _ in self:
            pass
        return self._whole()

    def close(self) -> None:
        """Ends the stream; may be called twice, and while another thread or task reads."""
        if not self._closed:
            self._closed = True
            self._exchange.body.close(is_complete=self._done)

    def _read(self) -> None:
        self._before_read()
        data, self._first = self._first, None
        cause = None
        if data is None:
            try:
                data = self._next_bytes()
            except ConnectionFailed as error:
                data, cause = b"", error
        self._feed(data, cause)

    def _next_bytes(self) -> bytes:
        with self._exchange.errors_translated(in_stream=True):
            try:
                return bytes(self._exchange.body.read())
            except self._exchange.library.StreamError:  # closed meanwhile by another thread or task
                return b""

    def _read_end(self) -> None:
        # The end of the body follows [DONE] at once; once it is read, the connection can be used
        # again. If the body goes on instead, `close` ends it.
        try:
            self._next_bytes()
        except Error:
            pass  # all chunks are here; only the connection is lost
