"""Looks how near the process is to its memory limit: above a share of it nothing new is taken.

What counts is the tightest limit of the containers around the process; without one, the memory of
the machine against what server and engine have, since other programs are not ours to judge.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

from shoal import cgroup
from shoal.server.services import Services

log = logging.getLogger("shoal.server")

LOOK_S = 1.0
RELIEF = 0.05
"""How far the share must fall before new requests are taken again."""


class MemoryUse(NamedTuple):
    """Bytes."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit


ReadMemory = Callable[[], Iterable[MemoryUse]]


def is_short(share: float, was_short: bool, high: float) -> bool:
    """`high`: the share from which memory is short; 1 = never."""
    return high < 1 and share > (high - RELIEF if was_short else high)


def read_memory() -> list[MemoryUse]:
    """Of this process and its surroundings."""
    limits = [MemoryUse(group.used, group.limit) for group in cgroup.memory_limits()]
    return limits or [MemoryUse(_own_bytes(), psutil.virtual_memory().total)]


def _own_bytes() -> int:
    """What this process and its children have in memory; the pages they share count each time."""
    own = psutil.Process()
    num_bytes = 0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            num_bytes += process.memory_info().rss
    return num_bytes


async def watch_memory(services: Services, read: ReadMemory | None = None) -> None:
    """Keeps `services.memory_is_short` true to what `read` says, in a thread. Runs for ever."""
    high = services.settings.max_memory_share
    while high < 1:
        uses = list(await asyncio.to_thread(read or read_memory))
        tightest = max(uses, key=lambda use: use.share)
        short = is_short(tightest.share, services.memory_is_short, high)
        if short != services.memory_is_short:
            services.memory_is_short = short
            log.warning(
                "memory is short" if short else "memory is free again", extra=tightest._asdict()
            )
        await asyncio.sleep(LOOK_S)
