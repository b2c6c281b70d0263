"""The only place that asks what this machine is: CPU or GPU, usable cores, number format."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ConfigError

if TYPE_CHECKING:
    import torch


def usable_cores() -> int:
    """Cores this process may use: affinity mask, cut by a cgroup v2 CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores or 1
    if quota != "max":
        cores = min(cores or 1, max(1, int(quota) // int(period)))
    return cores or 1


def available_bytes() -> int | None:
    """Memory this process may still take: the machine's, cut by a cgroup v2 limit; None where
    the system does not say."""
    found: list[int] = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            found.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def has_gpu() -> bool:
    """Is there an NVIDIA driver? Cheap, so that torch is not loaded only to hear no."""
    return Path("/dev/nvidiactl").exists()


def choose_device(wanted: str) -> str:
    """ "cpu" or "cuda". Raises ConfigError for a GPU that is not there."""
    import torch

    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise ConfigError("device cuda was asked for, and PyTorch sees no GPU")
    return "cuda" if usable and wanted != "cpu" else "cpu"


def choose_dtype(wanted: str, stored: str, device: str) -> "torch.dtype":
    """auto: bfloat16 on a GPU for a checkpoint stored in it, else float32, which holds every
    16-bit weight exactly and on a CPU is faster in PyTorch at these sizes."""
    import torch

    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16":
        return torch.bfloat16
    return torch.bfloat16 if device == "cuda" and stored == "bfloat16" else torch.float32
