"""For tests of programs that use the SDK: a server in memory and a clock that you move.

    server = MockServer()
    server.error(503, "server_is_overloaded", headers={"Retry-After": "2"})
    server.completion(" blue")
    client = server.client()
    assert client.completions.create("The sky is").text == " blue"
    assert server.clock.sleeps == [2.0]

The real client runs, with its retries and limits; only the network and time are replaced.
"""

from __future__ import annotations

import asyncio
import enum
import json
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx

from ._async.client import AsyncClient
from ._retry import Clock
from ._sync.client import Client

PING = b": ping\n\n"
"""The keep-alive comment of a stream."""
DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""


class Fault(enum.Enum):
    """What can go wrong below HTTP. CONNECT and CONNECT_TIMEOUT happen only before a reply."""

    CONNECT = "ConnectError"
    CONNECT_TIMEOUT = "ConnectTimeout"
    READ_TIMEOUT = "ReadTimeout"
    LOST = "RemoteProtocolError"

    def error(self, library: ModuleType) -> Exception:
        """As the HTTP library reports it."""
        error: Exception = getattr(library, self.value)(f"{self.name.lower()} (made by a test)")
        return error


@dataclass(frozen=True)
class Pause:
    """Silence inside a body: advances the server's clock, without waiting."""

    seconds: float


Part = bytes | Mapping[str, Any] | Pause | Fault
"""A piece of a body: bytes, an event as its JSON, silence, or a break of the connection."""


@dataclass(frozen=True)
class Canned:
    """A reply that the server holds ready for a request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    fault: Fault | None = None  # raised instead of a reply


@dataclass
class SeenRequest:
    """A request the server received."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    json: Any = None  # the body; None if it had none
    timeout: Mapping[str, float | None] = field(default_factory=dict)
    """Seconds given to the HTTP library: connect, read, write, pool."""
    closing: threading.Event = field(default_factory=threading.Event)
    """Set when the client closes the reply, in whatever thread."""

    @property
    def closed(self) -> bool:
        return self.closing.is_set()


class FakeClock:
    """Time that moves only when told to. Random numbers are fixed too."""

    def __init__(self, *, now: float = 1000.0, wall: float = 1.76e9, chance: float = 0.5) -> None:
        self.now = now  # seconds of the monotonic clock
        self.chance = chance  # what the random source always returns, in [0, 1)
        self.sleeps: list[float] = []  # seconds of every wait
        self._wall_ahead = wall - now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def as_clock(self) -> Clock:
        """For `Client(clock=...)`."""
        return Clock(
            monotonic=lambda: self.now,
            wall=lambda: self.now + self._wall_ahead,
            random=lambda: self.chance,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)


class MockServer(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport for httpx and httpx2 clients that sends canned replies, each once, in order.

    `answer` makes the reply when none is left; without it such a request is an AssertionError.
    """

    def __init__(self, answer: Callable[[SeenRequest], Canned] | None = None) -> None:
        self.requests: list[SeenRequest] = []
        self.clock = FakeClock()
        self._replies: deque[Canned] = deque()
        self._answer = answer

    def client(self, **settings: Any) -> Client:
        """A client of this server; `settings` as for `Client`."""
        settings.setdefault("http_client", httpx.Client(transport=self))
        return Client(clock=self.clock.as_clock(), **settings)

    def async_client(self, **settings: Any) -> AsyncClient:
        """The same, asynchronous."""
        settings.setdefault("http_client", httpx.AsyncClient(transport=self))
        return AsyncClient(clock=self.clock.as_clock(), **settings)

    def add(self, *replies: Canned) -> None:
        self._replies.extend(replies)

    def reply(
        self, json: Any = None, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """A JSON body; bytes are sent as they are."""
        self.add(json_reply(json, status=status, headers=headers))

    def error(
        self,
        status: int,
        code: str,
        message: str = "made by a test",
        *,
        type: str = "server_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """An error status with the API's error object."""
        error = {"message": message, "type": type, "param": param, "code": code}
        self.reply({"error": error}, status=status, headers=headers)

    def fail(self, fault: Fault) -> None:
        """No reply at all."""
        self.add(Canned(fault=fault))

    def stream(self, *parts: Part, headers: Mapping[str, str] | None = None) -> None:
        """A stream of these parts; nothing is added, not even `DONE`."""
        kind = {"content-type": "text/event-stream; charset=utf-8"}
        self.add(Canned(headers={**kind, **(headers or {})}, parts=parts))

    def completion(self, text: str, **fields: Any) -> None:
        """A whole completion; `fields` replace or add top-level fields."""
        self.reply(completion_json(text, **fields))

    def completion_stream(self, *texts: str) -> None:
        """A completion stream, one chunk per text, whole and with usage."""
        last = completion_event("", finish_reason="stop")
        self.stream(*map(completion_event, texts), last, {**last, **_usage(texts)}, DONE)

    def chat(self, text: str, **fields: Any) -> None:
        """A whole chat answer."""
        self.reply(chat_json(text, **fields))

    def chat_stream(self, *texts: str) -> None:
        """A chat stream, one chunk per text, whole and with usage."""
        first = chat_event({"role": "assistant", "content": ""})
        deltas = [chat_event({"content": text}) for text in texts]
        last = chat_event({}, finish_reason="stop")
        self.stream(first, *deltas, last, {**last, **_usage(texts)}, DONE)

    def handle_request(self, request: httpx.Request) -> Any:
        request.read()
        return self._respond(request)

    async def handle_async_request(self, request: httpx.Request) -> Any:
        await request.aread()
        await asyncio.sleep(0)  # a network always lets other tasks run
        return self._respond(request)

    def _respond(self, request: Any) -> Any:  # types of the client's library, httpx or httpx2
        library = sys.modules[type(request).__module__.partition(".")[0]]
        seen = SeenRequest(
            method=request.method,
            path=request.url.raw_path.decode(),
            headers={name.lower(): value for name, value in request.headers.items()},
            json=json.loads(request.content) if request.content else None,
            timeout=dict(request.extensions.get("timeout", {})),
        )
        self.requests.append(seen)
        if self._replies:
            canned = self._replies.popleft()
        elif self._answer is not None:
            canned = self._answer(seen)
        else:
            raise AssertionError(f"{seen.method} {seen.path}: the MockServer has no reply left")
        if canned.fault is not None:
            raise canned.fault.error(library)
        body = _body_type(library)(self._send(canned, library), seen)
        return library.Response(canned.status, headers=dict(canned.headers), stream=body)

    def _send(self, canned: Canned, library: ModuleType) -> Iterator[bytes]:
        for part in canned.parts:
            if isinstance(part, Fault):
                raise part.error(library)
            if isinstance(part, Pause):
                self.clock.advance(part.seconds)
            else:
                yield part if isinstance(part, bytes) else event_bytes(part)


def json_reply(
    json: Any = None, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Canned:
    """A reply with a JSON body; bytes are sent as they are, None as nothing."""
    content = json if isinstance(json, bytes) else b"" if json is None else _dump(json)
    kind = {"content-type": "application/json"}
    return Canned(status, {**kind, **(headers or {})}, (content,))


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """One event of a stream as it is sent."""
    return b"data: " + _dump(event) + b"\n\n"


def completion_json(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a whole completion."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    return {**_head("text_completion"), **_usage((text,)), "choices": [choice], **fields}


def chat_json(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a whole chat answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_head("chat.completion"), **_usage((text,)), "choices": [choice], **fields}


def completion_event(
    text: str, *, index: int = 0, finish_reason: str | None = None, **fields: Any
) -> dict[str, Any]:
    """A chunk of a completion stream; `fields` go into its choice."""
    choice = {"index": index, "text": text, "finish_reason": finish_reason, **fields}
    return {**_head("text_completion"), "choices": [choice]}


def chat_event(
    delta: Mapping[str, Any], *, index: int = 0, finish_reason: str | None = None, **fields: Any
) -> dict[str, Any]:
    """A chunk of a chat stream; `fields` go into its choice."""
    choice = {"index": index, "delta": dict(delta), "finish_reason": finish_reason, **fields}
    return {**_head("chat.completion.chunk"), "choices": [choice]}


def _head(kind: str) -> dict[str, Any]:
    return {"id": "cmpl-test", "object": kind, "created": 1760000000, "model": "test"}


def _usage(texts: tuple[str, ...]) -> dict[str, Any]:
    """What the last chunk of a stream has instead of choices."""
    counts = {"prompt_tokens": 3, "completion_tokens": len(texts), "total_tokens": 3 + len(texts)}
    return {"choices": [], "usage": counts}


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _body_type(library: ModuleType) -> Any:
    """A body that both the sync and the async client of this library take."""

    class Body(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, pieces: Iterator[bytes], seen: SeenRequest) -> None:
            self._pieces = pieces
            self._seen = seen

        def __iter__(self) -> Iterator[bytes]:
            return self._pieces

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self._pieces:
                yield piece

        def close(self) -> None:
            self._seen.closing.set()

        async def aclose(self) -> None:
            self._seen.closing.set()

    return Body
