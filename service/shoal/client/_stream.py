"""From the bytes of a streamed answer to typed chunks, without any I/O.

`EventParser` knows the `text/event-stream` format and nothing else (HTML standard, section
"Server-sent events"). `StreamReader` knows how our streams go on and end. The connection is
read by `_stream_io.py`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import ValidationError

from ._collect import ChunkT, Collector, ResultT
from ._errors import (
    Error,
    ResponseInvalid,
    StreamInterrupted,
    Timeout,
    TimeoutPhase,
    error_from_event,
    parse_json,
)
from ._http import timed_out
from ._retry import Clock
from ._settings import Timeouts

MAX_EVENT_BYTES = 64 * 2**20
"""More than any event we send; keeps a broken server from filling the memory."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Event:
    """One server-sent event. `name` is "" where the server gives none."""

    data: str
    name: str = ""


class EventParser:
    """Bytes in any cut to events. Lines may end in LF, CRLF or CR."""

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
        # CRLF may straddle two calls, so a CR ends its line at once and a LF after it is dropped.
        text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
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
        if not line:
            self._end_event(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif name == b"event":
            self._name = value
        # Everything else is a comment (empty name), or a field that does not concern us.

    def _end_event(self, events: list[Event]) -> None:
        data = b"\n".join(self._data).decode("utf-8", "replace")
        if data:  # an event without data is none
            events.append(Event(data, self._name.decode("utf-8", "replace")))
        self._data, self._name, self._size = [], b"", 0


class StreamReader(Generic[ChunkT, ResultT]):
    """Follows one stream to its end: chunks, errors inside it, time limits, whether it is whole.

    To use: take `next_chunk` until it has none; unless `done`, call `before_read`, read, and give
    the bytes to `feed`, or call `end` when nothing more will come; and again.
    """

    def __init__(
        self,
        collector: Collector[ChunkT, ResultT],
        *,
        hide_usage: bool,
        timeouts: Timeouts,
        deadline: float | None,
        clock: Clock,
        server: str,
        request_id: str,
    ) -> None:
        """`hide_usage`: the caller did not ask for the chunk that has usage and no choices.
        `deadline` is the clock's reading at which the total time is over."""
        self.collector = collector
        self.done = False
        self._parser = EventParser()
        self._events: deque[Event] = deque()
        self._hide_usage = hide_usage
        self._timeouts = timeouts
        self._deadline = deadline
        self._clock = clock
        self._server = server
        self._request_id = request_id
        self._waiting_since: float | None = None  # None: the last read brought data

    def next_chunk(self) -> ChunkT | None:
        """The next chunk of what was fed; None = read more, or `done`.

        Raises the error of an error event, or ResponseInvalid.
        """
        while self._events and not self.done:
            event = self._events.popleft()
            if event.data.strip() == "[DONE]":
                self.done = True
                break
            chunk = self._parse(event)
            self.collector.add(chunk)
            if not self._hidden(chunk):
                return chunk
        return None

    def before_read(self) -> None:
        """Call when more bytes are needed: silence counts from here, not while the caller
        works on a chunk. Raises Timeout."""
        now = self._clock.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        if self._deadline is not None and now >= self._deadline:
            raise self._timed_out("total", self._timeouts.total_s)

    def feed(self, data: bytes) -> None:
        """Takes bytes in any cut. Raises Timeout, ResponseInvalid."""
        try:
            events = self._parser.feed(data)
        except ResponseInvalid as error:
            error.request_id = self._request_id
            raise
        self._events.extend(events)
        if events:
            self._waiting_since = None
        else:
            self._check_silence()

    def end(self, cause: Error | None = None) -> None:
        """Nothing more will come. Raises StreamInterrupted if it ended too early.

        A stream whose choices have all finished is whole even without its [DONE].
        """
        if self.done or self.collector.finished:
            self.done = True
            return
        why = f": {cause.message}" if cause is not None else ""
        raise StreamInterrupted(
            f"the stream was cut before its end{why}",
            text=self.collector.text,
            request_id=self._request_id,
        ) from cause

    def _parse(self, event: Event) -> ChunkT:
        parsed = parse_json(event.data)
        if event.name == "error" or (isinstance(parsed, dict) and parsed.get("error")):
            shown = event.data if parsed is None else parsed
            raise error_from_event(shown, request_id=self._request_id)
        try:
            return self.collector.parse(parsed)
        except ValidationError as error:
            raise ResponseInvalid(
                f"an event of the stream is not what the API promises: {summary(error)}",
                body=event.data,
                request_id=self._request_id,
            ) from error

    def _hidden(self, chunk: ChunkT) -> bool:
        return (
            self._hide_usage
            and not chunk.choices
            and chunk.usage is not None
            and not chunk.model_extra
        )

    def _check_silence(self) -> None:
        limit_s, since = self._timeouts.between_data_s, self._waiting_since
        if limit_s is not None and since is not None and self._clock.monotonic() - since >= limit_s:
            raise self._timed_out("between_data", limit_s)

    def _timed_out(self, phase: TimeoutPhase, limit_s: float | None) -> Timeout:
        return timed_out(phase, limit_s, server=self._server, request_id=self._request_id)


def summary(error: ValidationError) -> str:
    """The first problem in one line."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg']}"
