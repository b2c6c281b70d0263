"""The only place that asks what this machine is: CPU or GPU, usable cores, number format."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.cgroup import cpu_quota, memory_limits
from shoal.errors import ConfigError

if TYPE_CHECKING:
    import torch


def usable_cores() -> int:
    """Cores this process may use: affinity mask, cut by the CPU quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cpu_quota()
    if quota is not None:
        cores = min(cores or 1, max(1, int(quota)))
    return cores or 1


def available_bytes() -> int | None:
    """Memory this process may still take: the machine's, cut by the limits of its control groups;
    None where the system does not say."""
    found = [memory.left for memory in memory_limits()]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
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
