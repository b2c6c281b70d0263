"""A small real OpenAI-compatible server on a loopback port, with faults and delays on demand.

Runs on its own event loop in a thread, so that blocking code and other processes can call it.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass
class FakeServer:
    """What it does, and what it was asked. `url` is set once it listens."""

    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    with_usage: bool = True
    refused_fields: frozenset[str] = frozenset()
    fail_with: tuple[int, str] | None = None  # status and code for every measured request
    fail_every: int = 1
    cut_after: int | None = None  # tokens, then the connection breaks
    error_event_after: int | None = None
    end_early_after: int | None = None  # tokens, as if the model had ended
    tokens_per_chunk: int = 1
    words: tuple[str, ...] = ("blue", "sky", "sea")
    metrics: str | None = None  # text of /metrics
    key: str | None = None  # that callers must send, but to /health
    url: str = ""
    asked: list[Body] = field(default_factory=list)
    num_connections: int = 0

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (
                        int(line.split(":")[1])
                        for line in head.split("\r\n")
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                body = json.loads(await reader.readexactly(length)) if length else {}
                if (
                    self.key is not None
                    and f"bearer {self.key}\r\n" not in head.lower()
                    and (head.split(" ")[1] != "/health")
                ):
                    _send_error(writer, 401, "invalid_api_key")
                    continue
                await self._answer(head.split(" ")[1], body, writer)
                if "connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, _Cut):
            pass  # the peer left, or the test is over
        finally:
            writer.close()

    async def _answer(self, path: str, body: Body, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            models = [{"id": "tiny-a", "object": "model", "max_model_len": 512, "ready": True}]
            failed = [{"id": "bad", "reason": "it is damaged"}]
            answer = {"object": "list", "data": models, "failed": failed}
            return _send_json(writer, 200, answer)
        if path == "/health":
            return _send_json(writer, 200, {"status": "ok", "models": {"m": {"state": "ready"}}})
        if path == "/metrics" and self.metrics is not None:
            return _send(writer, 200, "text/plain", self.metrics.encode())
        if path == "/version":
            return _send_json(writer, 200, {"version": "fake-1"})
        if path not in ("/v1/completions", "/v1/chat/completions"):
            return _send_error(writer, 404, "unknown_url")
        self.asked.append(body)
        if refused := sorted(self.refused_fields & body.keys()):
            return _send_error(writer, 400, "unknown_parameter", refused[0])
        num_full = sum(one.get("max_tokens") != 8 for one in self.asked)  # 8: probe and warm-up
        if self.fail_with and body.get("max_tokens") != 8 and num_full % self.fail_every == 0:
            return _send_error(writer, *self.fail_with)
        if body.get("stream"):
            return await self._stream("chat" in path, body, writer)
        await asyncio.sleep(self.first_delay_s)
        text = " ".join(self._texts(body))
        choice = {"index": 0, "text": text, "finish_reason": "length"}
        return _send_json(writer, 200, {"choices": [choice], "usage": self._usage(body)})

    def _texts(self, body: Body) -> list[str]:
        count = body.get("max_tokens") or 16
        if self.end_early_after is not None and not body.get("ignore_eos"):
            count = min(count, self.end_early_after)
        return [f" {self.words[i % len(self.words)]}" for i in range(count)]

    def _usage(self, body: Body) -> Body | None:
        if not self.with_usage:
            return None
        return {"prompt_tokens": 5, "completion_tokens": len(self._texts(body)), "total_tokens": 9}

    async def _stream(self, chat: bool, body: Body, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.first_delay_s)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        base = {"id": "cmpl-1", "created": 1, "model": "tiny-a"}
        base["object"] = "chat.completion.chunk" if chat else "text_completion"
        _send_chunk(writer, ": ping\n\n")
        texts = self._texts(body)
        num = self.tokens_per_chunk
        pieces = ["".join(texts[i : i + num]) for i in range(0, len(texts), num)]
        for i, text in enumerate(pieces):
            if i:
                await asyncio.sleep(self.token_delay_s)
            if body.get("max_tokens") != 8 and i == self.cut_after:
                writer.transport.abort()
                raise _Cut
            if body.get("max_tokens") != 8 and i == self.error_event_after:
                _send_event(writer, {"error": {"message": "x", "code": "internal_error"}})
                _send_chunk(writer, "data: [DONE]\n\n")
                return _send_chunk(writer, "")
            if chat and i == 0:
                delta: Body = {"role": "assistant", "content": ""}
                _send_event(writer, base | _choice(delta=delta, finish_reason=None))
            piece = {"delta": {"content": text}} if chat else {"text": text}
            _send_event(writer, base | _choice(**piece, finish_reason=None))
            await writer.drain()
        last: Body = {"delta": {}} if chat else {"text": ""}
        _send_event(writer, base | _choice(**last, finish_reason="length"))
        if self.with_usage and (body.get("stream_options") or {}).get("include_usage"):
            _send_event(writer, base | {"choices": [], "usage": self._usage(body)})
        _send_chunk(writer, "data: [DONE]\n\n")
        return _send_chunk(writer, "")


class _Cut(Exception):
    """The connection was broken on purpose."""


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    """Serve on a free loopback port until the block ends."""
    listening = threading.Event()
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        listener = await asyncio.start_server(server.serve_connection, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with listener:
            listening.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert listening.wait(10)
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def _choice(**fields: Any) -> Body:
    return {"choices": [{"index": 0, **fields}]}


def _send_event(writer: asyncio.StreamWriter, event: Body) -> None:
    _send_chunk(writer, f"data: {json.dumps(event)}\n\n")


def _send_chunk(writer: asyncio.StreamWriter, text: str) -> None:
    data = text.encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _send_error(writer: asyncio.StreamWriter, status: int, code: str, param: str = "") -> None:
    error = {"message": f"refused {param}", "type": "some_error", "param": param, "code": code}
    _send_json(writer, status, {"error": error}, "x-should-retry: false\r\n")


def _send_json(
    writer: asyncio.StreamWriter, status: int, value: Body, extra_header: str = ""
) -> None:
    _send(writer, status, "application/json", json.dumps(value).encode(), extra_header)


def _send(
    writer: asyncio.StreamWriter, status: int, kind: str, data: bytes, extra_header: str = ""
) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{extra_header}"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
