"""The server in memory: canned replies, faults, and what it received."""

from __future__ import annotations

import asyncio
import enum
import json
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx

from shoal.client._async.client import AsyncClient
from shoal.client._retry import Clock
from shoal.client._sync.client import Client

from . import bodies
from .bodies import (
    chat_event,
    chat_json,
    completion_event,
    completion_json,
    dump,
    event_bytes,
    tool_call_deltas,
    tool_calls_json,
    usage_of,
)

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
        self.stream(*map(completion_event, texts), last, {**last, **usage_of(texts)}, DONE)

    def chat(self, text: str, **fields: Any) -> None:
        """A whole chat answer."""
        self.reply(chat_json(text, **fields))

    def chat_stream(self, *texts: str) -> None:
        """A chat stream, one chunk per text, whole and with usage."""
        first = chat_event({"role": "assistant", "content": ""})
        deltas = [chat_event({"content": text}) for text in texts]
        last = chat_event({}, finish_reason="stop")
        self.stream(first, *deltas, last, {**last, **usage_of(texts)}, DONE)

    def tool_calls(self, **arguments: Mapping[str, Any]) -> None:
        """A whole chat answer that calls tools: `tool_calls(add={"a": 1, "b": 2})`."""
        self.reply(chat_json(None, message=tool_calls_json(arguments), finish_reason="tool_calls"))

    def tool_calls_stream(self, **arguments: Mapping[str, Any]) -> None:
        """The same as a stream."""
        deltas = [chat_event(delta) for delta in tool_call_deltas(arguments)]
        last = chat_event({}, finish_reason="tool_calls")
        self.stream(*deltas, last, {**last, **usage_of(tuple(arguments))}, DONE)

    def models(self, *names: str, **fields: Any) -> None:
        """The list of models; `fields` are those of each."""
        self.reply(bodies.models_json(names, **fields))

    def tokens(self, *ids: int, **fields: Any) -> None:
        """The answer of `tokenize`."""
        self.reply({"count": len(ids), "tokens": ids, **fields})

    def text(self, text: str) -> None:
        """The answer of `detokenize`."""
        self.reply({"prompt": text})

    def scores(self, *logprobs: float) -> None:
        """The answer of `score_choices`, one number per choice."""
        self.reply(bodies.scores_json(logprobs))

    def perplexity(self, perplexity: float, *, tokens: int = 10, num_bytes: int = 40) -> None:
        """The answer of `perplexity`, for a text of this length."""
        self.reply(bodies.perplexity_json(perplexity, tokens, num_bytes))

    def embeddings(self, *vectors: Sequence[float]) -> None:
        """The answer of `embeddings.create`, in base64 as the SDK asks for it."""
        self.reply(bodies.embeddings_json(vectors))

    def cancelled(self, tokens_generated: int = 0) -> None:
        """The answer of `cancel`."""
        self.reply({"cancelled": True, "tokens_generated": tokens_generated})

    def usage(self, *rows: Mapping[str, Any]) -> None:
        """The answer of `usage`."""
        self.reply({"object": "list", "data": rows})

    def health(self, status: str = "ok") -> None:
        """The answer of `health` and `wait_until_ready`; every status but "ok" is not ready."""
        self.reply({"status": status, "models": {}}, status=200 if status == "ok" else 503)

    def metrics(self, text: str) -> None:
        """The answer of `metrics`."""
        self.reply(text.encode(), headers={"content-type": "text/plain; version=0.0.4"})

    def rate_limited(self, retry_after: float = 1) -> None:
        """429 with this `Retry-After`: the caller's own limit."""
        headers = {"Retry-After": f"{retry_after:g}"}
        self.error(429, "rate_limit_exceeded", type="rate_limit_error", headers=headers)

    def overloaded(self, retry_after: float = 1) -> None:
        """503 with this `Retry-After`: the whole server is busy."""
        headers = {"Retry-After": f"{retry_after:g}"}
        kind = "service_unavailable_error"
        self.error(503, "server_is_overloaded", type=kind, headers=headers)

    def drop(self, *parts: Part) -> None:
        """Hangs up: without a reply, or after these parts of a stream."""
        if parts:
            self.stream(*parts, Fault.LOST)
        else:
            self.fail(Fault.LOST)

    def stall(self, *parts: Part) -> None:
        """Sends nothing more: no reply at all, or only these parts of a stream."""
        if parts:
            self.stream(*parts, Fault.READ_TIMEOUT)
        else:
            self.fail(Fault.READ_TIMEOUT)

    def garbage(self, content: bytes = b"<html>not JSON</html>") -> None:
        """A success with a body that is not what the API promises."""
        self.reply(content, headers={"content-type": "text/html"})

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
    content = json if isinstance(json, bytes) else b"" if json is None else dump(json)
    kind = {"content-type": "application/json"}
    return Canned(status, {**kind, **(headers or {})}, (content,))


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
