"""All connections of a listener: how many there may be, and whose time is up."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from shoal.server.wire.connection import GuardedConnection
from shoal.server.wire.limits import WireLimits

MAX_LOOK_S = 1.0
"""Seconds between two looks at the clocks of all connections, at most."""
LOOKS_PER_LIMIT = 8


class Connections:
    """At most `max_open`, and `reserved` more for probes. For a new one, the one that has been idle
    for longest makes room."""

    def __init__(
        self,
        limits: WireLimits,
        *,
        max_open: int,
        reserved: int,
        on_end: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`on_end` is called with the reason when a limit ends a connection."""
        self.limits = limits
        self.on_end = on_end
        self.max_open = max_open
        self.reserved = reserved
        self._open: dict[GuardedConnection, None] = {}  # who has not asked for longest first
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self, parser: str = "") -> Any:
        """What uvicorn makes a connection of these with. `parser`: httptools or h11; by default
        the first if it is installed."""
        return functools.partial(_protocol_class(parser), guard=self)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: GuardedConnection) -> None:
        """Takes it, takes it for probes only, or turns it away."""
        if len(self._open) >= self.max_open:
            if (idle := self._find_idle()) is not None:
                self.remove(idle)
                idle.drop("made_room")
            elif len(self._open) < self.max_open + self.reserved:
                connection.in_reserve = True
            else:
                connection.turn_away()
                return
        self._open[connection] = None
        if self._timer is None:
            self._look_later()

    def touch(self, connection: GuardedConnection) -> None:
        """It asks something."""
        if self._open.pop(connection, self) is None:
            self._open[connection] = None

    def remove(self, connection: GuardedConnection) -> None:
        self._open.pop(connection, None)

    def _find_idle(self) -> GuardedConnection | None:
        return next((connection for connection in self._open if connection.is_idle), None)

    def _look_later(self) -> None:
        limits = self.limits
        shortest = min(limits.header_timeout, limits.body_timeout, limits.stall_timeout)
        wait_s = min(MAX_LOOK_S, shortest / LOOKS_PER_LIMIT)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            connection.check_time(now)
        if self._open:
            self._look_later()


def _protocol_class(parser: str) -> type[GuardedConnection]:
    if parser != "h11":
        try:
            from shoal.server.wire.httptools_protocol import HttpToolsConnection
        except ImportError:
            if parser:
                raise
        else:
            return HttpToolsConnection
    from shoal.server.wire.h11_protocol import H11Connection

    return H11Connection
