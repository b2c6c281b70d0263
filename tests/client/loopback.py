"""A real server on a loopback or unix socket that does byte for byte what a test says."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

WAIT_S = 10.0
"""Longer than anything here takes, so that a failure is not a hang."""

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"X-Request-Id: from-server\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Connection:
    """One connection from the server's side."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.closed_by_peer = threading.Event()
        sock.settimeout(WAIT_S)

    def read_request(self) -> bytes:
        """Head and body of the next request; b"" if the peer closed instead."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._receive()
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n")
             if line.lower().startswith(b"content-length:")), 0
        )  # fmt: skip
        while len(body) < length:
            body += self._receive()
        return head + b"\r\n\r\n" + body

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def send_json(self, body: bytes, status: bytes = b"200 OK") -> None:
        self.send(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )

    def send_chunk(self, data: bytes) -> None:
        """A piece of a chunked body; b"" ends it."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def wait_until_closed(self) -> None:
        """Returns when the peer has closed the connection."""
        while self._receive():
            pass
        self.closed_by_peer.set()

    def hang_up(self) -> None:
        """Ends the connection, whatever its thread does."""
        _shut_down(self._sock)

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(65536)
        except ConnectionResetError:
            return b""


class Loopback:
    """Runs `script` in a thread for every connection."""

    def __init__(self, listener: socket.socket, script: Callable[[Connection], None]) -> None:
        self.connections: list[Connection] = []
        self._listener = listener
        self._script = script
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _shut_down(self._listener)  # a plain close would leave `accept` waiting
        self._acceptor.join(WAIT_S)
        self._listener.close()
        for connection in self.connections:
            connection.hang_up()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the test is over
                return
            connection = Connection(sock)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(sock, connection), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, connection: Connection) -> None:
        with sock:
            try:
                self._script(connection)
            except OSError:  # the client went away in the middle, as some tests want
                pass


@contextmanager
def serving(script: Callable[[Connection], None]) -> Iterator[Loopback]:
    """A server on a free loopback port."""
    listener = socket.create_server(("127.0.0.1", 0))
    with Loopback(listener, script) as server:
        yield server


@contextmanager
def serving_on(path: Path, script: Callable[[Connection], None]) -> Iterator[Loopback]:
    """A server on a unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with Loopback(listener, script) as server:
        yield server


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected, or already closed
        pass
