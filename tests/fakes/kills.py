"""Processes that are killed while they write, at places that are told apart."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any


def kills_at_every_step(work: Callable[[], None], stride: int = 1) -> Iterator[int]:
    """Does the work in a process of its own that kills itself before its first step on files
    (opening, making, renaming, removing), then in one that does so `stride` steps later, and so on
    until one comes to the end. After each kill: the number of the step."""
    step = 0
    while _ends_by_kill(work, step):
        yield step
        step += stride


def kills_at_random_times(work: Callable[[], None], number: int) -> Iterator[bool]:
    """The same so many times, killed by another process at some time within what the work takes.
    After each: was it killed before its end?"""
    started = time.monotonic()
    work()
    usual_s = time.monotonic() - started
    chance = Random(1)
    for _ in range(number):
        child = _fork(work)
        time.sleep(chance.random() * usual_s)
        os.kill(child, signal.SIGKILL)
        yield os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _ends_by_kill(work: Callable[[], None], step: int) -> bool:
    steps = 0

    def count(event: str, arguments: Any) -> None:
        nonlocal steps
        if event == "open" or event.startswith(("os.", "shutil.", "tempfile.", "ctypes.")):
            steps += 1
            if steps == step + 1:
                os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        sys.addaudithook(count)
        work()

    status = os.waitpid(_fork(killed), 0)[1]
    assert status == 0 or os.WIFSIGNALED(status), "the work fails"
    return status != 0


def _fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child
