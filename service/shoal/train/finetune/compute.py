"""How a run computes: in which number format, and whether activations are kept or computed again.

Chosen once for a run, by what is measured and free then, and kept in its folder: another choice
would give other bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from shoal.train.finetune.cost import estimate
from shoal.train.finetune.prepare import Prepared
from shoal.train.finetune.speed import fastest_dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_USABLE_SHARE = 0.9
"""Of the memory that is free."""


class Compute(NamedTuple):
    """How the network computes."""

    dtype: torch.dtype
    checkpointing: bool
    """Are activations of a layer computed again for the gradient?"""
    memory_bytes: int
    """That a run will take, as it is estimated."""

    @property
    def note(self) -> dict[str, Any]:
        """For `RunFolder.note`."""
        name = next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)
        return {"dtype": name, "checkpointing": self.checkpointing}


def choose_compute(prepared: Prepared, notes: Mapping[str, Any]) -> Compute:
    """What an earlier process of the run noted, else what is quickest and fits in the memory."""
    dtype = _DTYPES.get(notes.get("dtype", "")) or fastest_dtype(prepared.device)

    def memory(checkpointing: bool) -> int:
        plan = prepared.plan
        cost = estimate(
            prepared.checkpoint.spec,
            plan.lora,
            plan.pack_tokens,
            plan.pack_tokens,
            dtype=dtype,
            checkpointing=checkpointing,
        )
        return cost.memory_bytes

    free = prepared.request.memory_bytes
    checkpointing = notes.get("checkpointing")
    if not isinstance(checkpointing, bool):
        checkpointing = free is not None and memory(False) > _USABLE_SHARE * free
    return Compute(dtype, checkpointing, memory(checkpointing))


def describe_compute(compute: Compute, free: int | None) -> str:
    """In a line for the user. `free`: bytes that the process may take."""
    how = "; activations are computed again to save memory" if compute.checkpointing else ""
    said = f"in {compute.note['dtype']}, about {compute.memory_bytes / 1e9:.1f} GB{how}"
    if free is not None and compute.memory_bytes > free:
        said += (
            f"; only {free / 1e9:.1f} GB are free, so it may fail: adapters (--lora-rank) and "
            "shorter rows (--seq-len) take less"
        )
    return said
