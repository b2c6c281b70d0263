"""The connection with the parser httptools (llhttp), the usual one."""

from typing import Any

import httptools
from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shoal.server.wire.connection import GuardedConnection
from shoal.server.wire.limits import malformed

MAX_PIPELINED = 64
"""Requests that may wait on one connection for the answer to an earlier one."""


class HttpToolsConnection(GuardedConnection, HttpToolsProtocol):
    """See GuardedConnection. The parser calls `on_…`."""

    url: bytes

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            if rest := piece[upgrade.args[0] :]:
                self._parse(rest)
        except httptools.HttpParserError:
            self.refuse(self._bad_request())

    def _target_bytes(self) -> int:
        return len(self.url)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = malformed(f"more than {MAX_PIPELINED} requests wait on one connection")
            raise self._refusal
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_came(self.url, self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        self.headers = []  # of trailers, which nobody reads

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it takes what follows for another protocol
        self._message_came()
        super().on_message_complete()

    def refuse(self, error: Any) -> None:
        if self.pipeline:  # other requests wait in between
            self._raw.abort()
        else:
            super().refuse(error)

    def _call_app(self, scope: Any, receive: Receive, send: Send) -> Any:
        if scope["http_version"] == "1.0":
            send = _unchunked(send)
        return super()._call_app(scope, receive, send)

    def _ignore_upgrade(self) -> None:
        """After the head of a request that offers another protocol (h2c), the parser treats its
        body as that. Another parser is told a head that offers none, and reads on."""
        encoding = b""
        for name, value in self.scope["headers"]:
            if name in (b"content-length", b"transfer-encoding"):
                encoding += b"%b: %b\r\n" % (name, value)
        self.parser = httptools.HttpRequestParser(_AfterHead(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % encoding)


class _AfterHead:
    """Tells a connection what a parser finds, after the first head."""

    def __init__(self, connection: HttpToolsConnection) -> None:
        self._to = connection
        self._headers_over = False
        self.on_body = connection.on_body

    def on_message_begin(self) -> None:
        if self._headers_over:
            self._to.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._headers_over:
            self._to.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers_over:
            self._to.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._headers_over:
            self._to.on_headers_complete()
        self._headers_over = True

    def on_message_complete(self) -> None:
        self._to.on_message_complete()


def _unchunked(send: Any) -> Send:
    """HTTP/1.0 knows no chunks: an answer of unknown length ends with the connection. `send` is a
    method of uvicorn's cycle, which counts the bytes of an answer that is not chunked."""
    cycle = send.__self__
    cycle.chunked_encoding = False
    cycle.waiting_for_100_continue = False

    async def send_unchunked(message: Any) -> None:
        body = b"" if cycle.scope["method"] == "HEAD" else message.get("body", b"")
        cycle.expected_content_length = len(body)
        await send(message)

    return send_unchunked
