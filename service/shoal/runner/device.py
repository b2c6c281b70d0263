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
    """auto: on a GPU the checkpoint's 16-bit format, on a CPU float32, which holds every bfloat16
    exactly and is faster in PyTorch at these sizes."""
    import torch

    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16":
        return torch.bfloat16
    return torch.bfloat16 if device == "cuda" and stored != "float32" else torch.float32
