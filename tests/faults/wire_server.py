"""The app behind real sockets, in this process, and clients that are as rude as they like."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from shoal.server.wire.connections import Connections
from shoal.server.wire.limits import WireLimits
from shoal.server.wire.listener import listen
from tests.fakes.http_app import Served
from tests.http.building import ScriptedRunner, serve_script, until


class _Server(uvicorn.Server):
    """Leaves the signals of the test process alone."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


@dataclass
class Answer:
    """What came back on a raw socket."""

    raw: bytes
    seconds: float

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode().lower()

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def code(self) -> str:
        """Of the error in the documented shape."""
        return str(json.loads(self.body)["error"]["code"])


@dataclass
class Wire:
    """A listening server."""

    served: Served
    runner: ScriptedRunner
    connections: Connections
    port: int
    ended: list[str]
    """Why connections were ended by a limit."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, *pieces: bytes, pause_s: float = 0.0, limit_s: float = 10.0) -> Answer:
        """Sends the pieces, and reads until the server closes."""
        began = asyncio.get_running_loop().time()
        reader, writer = await self.connect()

        async def write() -> None:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)

        writing = asyncio.create_task(write())
        raw = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(limit_s):
                while piece := await reader.read(1 << 16):
                    raw += piece
        writing.cancel()
        writer.close()
        return Answer(raw, asyncio.get_running_loop().time() - began)

    async def get(self, path: str = "/livez", *headers: str) -> Answer:
        lines = "".join(
            f"{line}\r\n" for line in ("Host: localhost", "Connection: close", *headers)
        )
        return await self.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())


def post(
    body: bytes | dict[str, Any], *headers: str, version: str = "1.1", close: bool = True
) -> bytes:
    """A completion request as bytes; its length is declared unless a header has something of it."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ["Host: localhost", "Content-Type: application/json", *headers]
    if not any(line.lower().startswith(("transfer-enc", "content-length")) for line in headers):
        lines.append(f"Content-Length: {len(payload)}")
    if close:
        lines.append("Connection: close" if "Connection" not in "".join(headers) else "X-A: b")
    head = f"POST /v1/completions HTTP/{version}\r\n" + "".join(f"{line}\r\n" for line in lines)
    return head.encode() + b"\r\n" + payload


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextlib.asynccontextmanager
async def wire(
    folder: Path, parser: str = "httptools", *, script: Any = "abc", max_open: int = 1000,
    reserved: int = 4, **options: Any,
) -> AsyncIterator[Wire]:  # fmt: skip
    """`options`: of `serve_script`, settings among them."""
    async with serve_script(folder, script, **options) as (served, runner):
        settings = served.services.settings.model_copy(update={"port": 0})
        ended: list[str] = []
        connections = Connections(
            WireLimits.of(settings), max_open=max_open, reserved=reserved, on_end=ended.append
        )
        with listen(settings) as listener:
            config = uvicorn.Config(
                served.app,
                http=connections.protocol(parser),
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_keep_alive=settings.idle_keepalive,
            )
            server = _Server(config)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            await until(lambda: server.started)
            try:
                yield Wire(served, runner, connections, listener.getsockname()[1], ended)
            finally:
                server.should_exit = server.force_exit = True
                await task
