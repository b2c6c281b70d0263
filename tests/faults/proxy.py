"""A TCP proxy with faults, between a client and a server on the loopback."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to the bytes of an answer; requests pass as they are."""

    delay_s: float = 0.0
    """Before the first byte."""
    bytes_per_s: float = 0.0
    """0 = as fast as it goes."""
    piece_bytes: int = _READ_BYTES
    """Largest number of bytes that are sent at once; 1 = every byte by itself."""
    cut_at: int | None = None
    """After so many bytes the connection ends."""
    reset: bool = False
    """It ends with RST instead of FIN."""
    drop_at: int | None = None
    """After so many bytes nothing more arrives, and nothing says so."""


class Proxy:
    """Forwards to a port of the loopback; `faults` hold for connections that open from then on."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.faults = Faults()
        self.port = 0
        self.num_bytes = 0
        """Of the last answer, as far as they were forwarded."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults = self.faults
        there, target = await asyncio.open_connection("127.0.0.1", self._target_port)
        forward = asyncio.create_task(_copy(reader, target))
        try:
            with contextlib.suppress(ConnectionError):
                await self._answer(there, writer, faults)
        finally:
            forward.cancel()
            target.close()
            writer.close()

    async def _answer(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
    ) -> None:
        self.num_bytes = 0
        while data := await there.read(_READ_BYTES):
            if self.num_bytes == 0:
                await asyncio.sleep(faults.delay_s)
            for start in range(0, len(data), faults.piece_bytes):
                piece = data[start : start + faults.piece_bytes]
                if faults.drop_at is not None and self.num_bytes + len(piece) > faults.drop_at:
                    await self._send(writer, piece[: faults.drop_at - self.num_bytes])
                    await asyncio.Event().wait()  # until the test is over
                if faults.cut_at is not None and self.num_bytes + len(piece) > faults.cut_at:
                    await self._send(writer, piece[: faults.cut_at - self.num_bytes])
                    if faults.reset:
                        _reset(writer)
                    return
                await self._send(writer, piece)
                if faults.bytes_per_s:
                    await asyncio.sleep(len(piece) / faults.bytes_per_s)

    async def _send(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        writer.write(piece)
        await writer.drain()
        self.num_bytes += len(piece)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
        writer.close()  # the client has gone


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def proxied(target_port: int) -> AsyncIterator[Proxy]:
    """A proxy before a port of the loopback, on a free port of its own."""
    proxy = Proxy(target_port)
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(proxy.serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
