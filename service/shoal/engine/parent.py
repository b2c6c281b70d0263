"""Ends the engine process with its parent, whatever either of them is doing."""

import ctypes
import os
import select
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1


def end_with_parent(fd: int, grace_s: float, exit_code: int) -> None:
    """`fd`: this end of the socket pair. `grace_s`: seconds in which the main thread may notice by
    itself that the other end is closed; then the process ends with `exit_code`. One that is stopped
    or cannot run Python is killed by the system, where that can be asked for it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(
        target=_watch, args=(fd, grace_s, exit_code), name="parent-watch", daemon=True
    ).start()


def _watch(fd: int, grace_s: float, exit_code: int) -> None:
    """Waits for the hang-up event only, so it costs nothing meanwhile."""
    poll = select.poll()
    poll.register(fd, 0)
    poll.poll()
    time.sleep(grace_s)
    os._exit(exit_code)
