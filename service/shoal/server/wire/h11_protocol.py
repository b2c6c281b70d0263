"""The connection with the parser h11, where httptools cannot be installed."""

import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from shoal.server.wire.connection import GuardedConnection, Refused

_FOLDED = re.compile(rb"\n[ \t]")
"""A header that goes on in the next line. The parser joins the lines, and equal lengths too."""


class H11Connection(GuardedConnection, H11Protocol):
    """See GuardedConnection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _CountedParser(self)

    def _parse(self, piece: bytes) -> None:
        self.conn.receive_data(piece)
        self.handle_events()

    @property
    def _is_parsing(self) -> bool:
        return self._in_body or not self._is_answering

    def _target_bytes(self) -> int:
        line, _, rest = self.conn.trailing_data[0].partition(b"\n")
        return 0 if rest else len(line)

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        self.refuse(self._bad_request())


class _CountedParser(h11.Connection):
    """Tells a connection what it finds."""

    def __init__(self, connection: H11Connection) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=connection._limits.head + 1)
        self._to = connection

    def next_event(self) -> Any:
        before = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._to._body_bytes += len(event.data)
        elif isinstance(event, h11.Request):
            version = event.http_version.decode("ascii", "replace")
            head = before[: len(before) - len(self.trailing_data[0])].lower()
            if _FOLDED.search(head) or head.count(b"\ncontent-length:") > 1:
                raise h11.RemoteProtocolError("read differently by other servers")
            try:
                self._to._head_came(event.target, version, list(event.headers))
            except Refused as error:
                raise h11.RemoteProtocolError("refused") from error
        elif isinstance(event, h11.EndOfMessage):
            self._to._message_came()
        return event
