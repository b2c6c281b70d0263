"""The transport as uvicorn's protocol sees it: closing asks the connection how."""

import asyncio
from collections.abc import Callable
from typing import Any


class PoliteTransport:
    """Passes everything on but `close`: a socket closed while the client still sends is reset, and
    an answer on its way is lost with it."""

    __slots__ = (
        "_close", "_is_closing", "_raw", "abort", "get_extra_info", "is_leaving",
        "pause_reading", "resume_reading", "write",
    )  # fmt: skip

    def __init__(self, raw: asyncio.Transport, close: Callable[[], None]) -> None:
        self._raw = raw
        self._close = close
        self._is_closing = raw.is_closing
        self.is_leaving = False
        """The answer is out, and nothing follows."""
        # The bound methods themselves: a chunk is written as fast as without this class.
        self.write: Callable[[bytes], None] = raw.write
        self.pause_reading = raw.pause_reading
        self.resume_reading = raw.resume_reading
        self.abort = raw.abort
        self.get_extra_info: Callable[..., Any] = raw.get_extra_info

    def close(self) -> None:
        if not self.is_leaving:
            self._close()

    def is_closing(self) -> bool:
        return self.is_leaving or self._is_closing()

    def detach(self) -> None:
        """The connection is gone: breaks the circle of references."""
        self._close = self._raw.close
