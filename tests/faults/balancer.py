"""A small HTTP load balancer: looks at `/readyz` once a second, sends each request to the next
server that is ready, and on to another one when that answers 503 or does not answer (in nginx:
`proxy_next_upstream error timeout http_503 non_idempotent`)."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

LOOK_S = 1.0


class Balancer:
    """One connection per request, both ways."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.ready: list[int] = list(ports)
        self._next = 0
        self.num_passed_on = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            server.close()

    async def _look(self) -> None:
        while True:
            ready = []
            for port in list(self.ports):
                with contextlib.suppress(OSError, TimeoutError):
                    head, _, writer = await self._ask(
                        port, b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n"
                    )
                    writer.close()
                    if b" 200 " in head.partition(b"\r\n")[0]:
                        ready.append(port)
            self.ready = ready
            await asyncio.sleep(LOOK_S)

    async def _ask(
        self, port: int, request: bytes
    ) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """The head of the answer, and the connection. Raises OSError when it is cut."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            return await reader.readuntil(b"\r\n\r\n"), reader, writer
        except asyncio.IncompleteReadError as error:
            writer.close()
            raise OSError("no answer") from error

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await client.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            head = re.sub(rb"(?i)\nconnection: *keep-alive", b"\nConnection: close", head)
            request = head + await client.readexactly(length)
            await self._pass_on(request, back)
        back.close()

    async def _pass_on(self, request: bytes, back: asyncio.StreamWriter) -> None:
        answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
        self._next += 1
        first, ready = self._next, self.ready or self.ports
        for place in range(len(ready)):
            try:
                answer, reader, writer = await self._ask(
                    ready[(first + place) % len(ready)], request
                )
            except OSError:
                self.num_passed_on += 1
                continue
            if b" 503 " not in answer.partition(b"\r\n")[0]:
                while answer:
                    back.write(answer)
                    await back.drain()
                    answer = await reader.read(1 << 16)
                writer.close()
                return
            self.num_passed_on += 1
            answer += await reader.read(1 << 16)
            writer.close()
        back.write(answer)


@contextmanager
def balancing(ports: list[int]) -> Iterator[Balancer]:
    """A balancer in a thread of its own."""
    balancer, started, stop = Balancer(ports), threading.Event(), threading.Event()

    async def run() -> None:
        async with balancer.running():
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    started.wait(10)
    try:
        yield balancer
    finally:
        stop.set()
        thread.join(10)
