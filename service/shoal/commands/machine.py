"""Detects the machine's CPU and usable cores."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from shoal import cgroup

CPUINFO = Path("/proc/cpuinfo")


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    return _cpuinfo_field(cpuinfo, "model name") or platform.processor() or platform.machine()


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """CPU feature flags as named by Linux; empty if /proc/cpuinfo has none."""
    flags = _cpuinfo_field(cpuinfo, "flags") or _cpuinfo_field(cpuinfo, "Features") or ""
    return frozenset(flags.split())


def usable_cores() -> float:
    """Cores this process may use: its CPU affinity, or less under the quota of a control group."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    quota = cgroup.cpu_quota()
    return cores if quota is None else min(cores, quota)


def describe() -> dict[str, Any]:
    """Environment information to store with benchmark results."""
    from shoal import __version__

    return {
        "shoal": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_model": cpu_model(),
        "usable_cores": usable_cores(),
        "event_loop": "uvloop" if "uvloop" in sys.modules else "asyncio",
    }


def _cpuinfo_field(cpuinfo: Path, name: str) -> str | None:
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
