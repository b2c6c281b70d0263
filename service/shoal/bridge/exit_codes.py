"""How the engine process ended, in words."""

import signal

from shoal.cgroup import num_oom_kills, tightest_memory


def describe_exit(code: int) -> str:
    """`code`: of the process; below 0 the signal that ended it."""
    if code >= 0:
        return f"engine exited with code {code}"
    try:
        ended = f"engine was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        ended = f"engine was ended by signal {-code}"
    if code != -signal.SIGKILL or not num_oom_kills():
        return ended
    memory = tightest_memory()
    limit = "" if memory is None else f" (the limit is {memory.limit >> 20} MiB)"
    return f"{ended}: there was not enough memory{limit}; raise it, or lower kv_cache_bytes"
