"""From the bytes of a streamed response to typed chunks, without any I/O.

`EventParser` reads the `text/event-stream` format (HTML standard, section "Server-sent events").
`BaseStream` knows how our streams continue and end; the streams in `_async/` and `_sync/` read
the connection for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import ValidationError

from ._collect import ChunkT, Collector, ResultT
from ._envelope import Received
from ._errors import Error, ResponseInvalid, StreamInterrupted, error_from_event, parse_json
from ._exchange import Exchange, summary
from ._types import Usage

MAX_EVENT_BYTES = 64 * 2**20
"""More than any event we send; keeps a broken server from filling the memory."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Event:
    """One server-sent event. `name` is "" if the server gives none."""

    data: str
    name: str = ""


class EventParser:
    """Turns bytes, cut anywhere, into events. Lines may end in LF, CRLF or CR, and nowhere else:
    JSON may hold the other line separators of Unicode."""

    def __init__(self) -> None:
        self._rest = bytearray()  # an incomplete line
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[Event]:
        """Events that are complete with these bytes. Raises ResponseInvalid."""
        if self._after_cr and data[:1] == b"\n":  # the second half of a CRLF
            data = data[1:]
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        # A CR ends its line at once, and a LF right after it is dropped: CRLF may be cut in two.
        *lines, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events: list[Event] = []
        for line in lines:
            self._rest += line
            self._take_line(bytes(self._rest), events)
            self._rest.clear()
        self._rest += rest
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise ResponseInvalid(f"an event of the stream is over {MAX_EVENT_BYTES} bytes")
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            data = b"\n".join(self._data).decode("utf-8", "replace")
            if data:  # events without data are skipped
                events.append(Event(data, self._name.decode("utf-8", "replace")))
            self._data, self._name, self._size = [], b"", 0
        elif name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif name == b"event":
            self._name = value
        # Everything else is a comment (empty name) or a field we have no use for.


class BaseStream(Received, Generic[ChunkT, ResultT]):
    """What has arrived of one stream: its chunks, errors, time limits, and whether it is complete.

    A subclass takes `_next_chunk` until that returns None. Then, unless the stream is `_done`, it
    calls `_before_read`, reads, and passes the bytes to `_feed`.
    """

    def __init__(self, exchange: Exchange[ResultT]) -> None:
        """Raises ResponseInvalid if the response is not a stream."""
        self._closed = True  # for __del__, should this raise
        call = exchange.call
        assert call.chunk is not None
        if exchange.body is None:
            shown = exchange.envelope.headers.get("content-type", "no content type")
            raise exchange.invalid(f"asked for a stream, got {shown}")
        self._exchange = exchange
        self._envelope = exchange.envelope
        self._first: bytes | None = exchange.content
        self._collector: Collector[Any, ResultT]
        self._collector = Collector(call.chunk, call.result, call.num_choices)
        self._parser = EventParser()
        self._events: deque[Event] = deque()
        self._waiting_since: float | None = None  # None: the last read brought data
        self._done = False
        self._closed = False

    def __repr__(self) -> str:
        state = "complete" if self._done else "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self.request_id}, {state}>"

    def __del__(self) -> None:
        if not self._closed:
            self._exchange.body.close_later()

    @property
    def text(self) -> str:
        """Text of the first choice so far."""
        return self._collector.text

    @property
    def usage(self) -> Usage | None:
        """Token counts; they come at the end of the stream, None until then."""
        return self._collector.usage

    @property
    def closed(self) -> bool:
        return self._closed

    def _ext(self) -> Mapping[str, Any] | None:
        return self._collector.head.get("ext")

    def _next_chunk(self) -> ChunkT | None:
        """The next chunk of what was fed; None = read more, or done.

        Raises the error of an error event, or ResponseInvalid.
        """
        while self._events and not self._done:
            event = self._events.popleft()
            if event.data.strip() == "[DONE]":
                self._done = True
                break
            chunk = self._parse(event)
            only_usage = not chunk.choices and chunk.usage is not None
            only_usage = only_usage and not (chunk.ext or chunk.model_extra)
            if not (self._exchange.call.hide_usage and only_usage):
                return chunk
        return None

    def _parse(self, event: Event) -> ChunkT:
        parsed = parse_json(event.data)
        if event.name == "error" or (isinstance(parsed, dict) and parsed.get("error")):
            shown = event.data if parsed is None else parsed
            raise error_from_event(shown, request_id=self.request_id)
        try:
            chunk: ChunkT = self._collector.add(parsed)
        except ValidationError as error:
            raise ResponseInvalid(
                f"an event of the stream is not what the API promises: {summary(error)}",
                body=event.data,
                request_id=self.request_id,
            ) from error
        return chunk

    def _before_read(self) -> None:
        """Silence counts from here, not while the caller works on a chunk. Raises Timeout."""
        if self._waiting_since is None:
            self._waiting_since = self._exchange.settings.clock.monotonic()
        self._exchange.time_left_s()

    def _feed(self, data: bytes, cause: Error | None = None) -> None:
        """Takes in what was read; b"" = nothing more will come, because of `cause` if given.

        Raises Timeout, ResponseInvalid, StreamInterrupted.
        """
        if not data:
            self._end(cause)
            return
        try:
            self._events += self._parser.feed(data)
        except ResponseInvalid as error:
            error.request_id = self.request_id
            raise
        if self._events:
            self._waiting_since = None
        limit_s = self._exchange.timeouts.between_data_s
        if limit_s is not None and self._waiting_since is not None:
            silent_s = self._exchange.settings.clock.monotonic() - self._waiting_since
            if silent_s >= limit_s:
                raise self._exchange.timed_out("between_data", limit_s)

    def _end(self, cause: Error | None) -> None:
        if self._closed:  # by us, in another thread or task
            return
        # A stream whose choices have all finished is complete even without its [DONE].
        self._done = self._done or self._collector.finished
        if not self._done:
            why = f": {cause.message}" if cause is not None else ""
            raise self._interrupted(f"the stream was cut before its end{why}") from cause

    def _interrupted(self, message: str) -> StreamInterrupted:
        return StreamInterrupted(message, text=self.text, request_id=self.request_id)

    def _check_index(self, index: int) -> None:
        num_choices = self._collector.num_choices
        if not 0 <= index < num_choices:
            raise IndexError(f"the stream has {num_choices} choices; got index {index}")

    def _whole(self) -> ResultT:
        if not self._done:
            raise self._interrupted("the stream was closed before its end")
        result = self._collector.result()
        result.with_envelope(self._envelope)
        result.with_format(self._exchange.call.reader)
        return result
