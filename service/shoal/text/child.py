"""A process that does hostile work: one request a line on standard input, one answer a line on
standard output, both JSON. What goes wrong costs this process and no other.

`workers.py` starts such processes and ends them.
"""

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any


def answer_requests(
    answer: Callable[[Any], Mapping[str, Any]],
    *,
    max_memory_bytes: int,
    max_cpu_s: float | None = None,
) -> None:
    """Says that it is ready, then answers until standard input ends. `max_memory_bytes`: of its
    address space; `max_cpu_s`: of its own computing for one answer, beyond it the system ends the
    process."""
    _limit_memory(max_memory_bytes)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:  # JSON is UTF-8, whatever the locale says
        _limit_cpu(max_cpu_s)
        reply = json.dumps(answer(json.loads(line)))
        _limit_cpu(None)
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


def _limit_memory(max_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _limit_cpu(max_s: float | None) -> None:
    """None: no longer. The signal's default action ends the process, whatever it is doing."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, max_s or 0)
