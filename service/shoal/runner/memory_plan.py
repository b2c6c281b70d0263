"""What fits into the memory that is available: decided before anything is loaded.

Each model in turn gets room for its weights as long as there is some for the KV cache beside it;
one that has none is refused with the numbers. The KV cache gets what is left, at most what the
setting says. Else the system would end the process in the middle of its work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal.cgroup import tightest_memory
from shoal.checkpoint.find import num_file_bytes
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError, ShoalError
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.runner.device import available_bytes, has_gpu
from shoal.runner.load import memory_needed

LEAST_KV_BYTES = 8 << 20
RESERVED_BYTES = 64 << 20
"""What the processes take beside weights and KV cache from when the engine starts: libraries,
tokenizers, the arrays of a step, helper processes."""
RESERVED_TORCH_BYTES = 320 << 20
"""The same where PyTorch computes."""
_PLENTY = 10
"""Weights never take more memory than so many times their files' bytes (4 bits to 32)."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What to load."""

    kv_cache_bytes: int
    refused: Mapping[str, str]
    """Name of a model -> why there is no room for it."""
    remark: str | None = None
    """What an operator should know."""

    def check(self, source: ModelSource) -> None:
        """Raises ModelFolderError for a model that has no room."""
        if source.name in self.refused:
            raise ModelFolderError(self.refused[source.name])


def plan_memory(config: EngineConfig, available: int | None = None) -> MemoryPlan:
    """`available`: bytes; None = what is available now. Models that cannot be read need nothing
    here: loading says what is wrong with them."""
    everything = MemoryPlan(config.kv_cache_bytes, {})
    if available is None:
        available = available_bytes()
    if available is None or config.device == "cuda" or (config.device == "auto" and has_gpu()):
        return everything
    file_bytes = sum(map(num_file_bytes, config.models))
    if available > _PLENTY * file_bytes + config.kv_cache_bytes + RESERVED_TORCH_BYTES:
        return everything
    room = available - RESERVED_BYTES
    torch_bytes = RESERVED_TORCH_BYTES - RESERVED_BYTES
    refused: dict[str, str] = {}
    for source in config.models:
        try:
            needed, uses_torch = memory_needed(open_model(Path(source.path)), config)
        except ShoalError:
            continue
        if uses_torch:
            needed += torch_bytes
        if needed + LEAST_KV_BYTES > room:
            refused[source.name] = _no_room(needed, room, available)
            continue
        room -= needed
        torch_bytes = 0 if uses_torch else torch_bytes
    kv_bytes = max(LEAST_KV_BYTES, min(config.kv_cache_bytes, room))
    remark = None
    if kv_bytes < config.kv_cache_bytes:
        remark = (
            f"the KV cache gets {kv_bytes >> 20} MiB instead of {config.kv_cache_bytes >> 20}: "
            f"{_of_what(available)}"
        )
    return MemoryPlan(kv_bytes, refused, remark)


def _no_room(needed: int, room: int, available: int) -> str:
    return (
        f"it needs {needed >> 20} MiB of memory and {LEAST_KV_BYTES >> 20} MiB for the KV cache, "
        f"and {max(0, room) >> 20} MiB are left: {_of_what(available)}; raise the limit, or serve "
        "fewer or smaller models (--quantize int8 or int4)"
    )


def _of_what(available: int) -> str:
    memory = tightest_memory()
    limit = "" if memory is None else f", of a limit of {memory.limit >> 20} MiB"
    return (
        f"{available >> 20} MiB were available at the start{limit}, and Shoal itself takes about "
        f"{RESERVED_BYTES >> 20}"
    )
