"""Which number format multiplies matrices faster on this machine."""

import time
from functools import cache

import torch

_MIN_GAIN = 1.3
_TRIES = 5


@cache
def fastest_dtype(device: str) -> torch.dtype:
    """bfloat16 or float32. On a CPU both are tried on a product of a usual size, some 100 ms:
    instructions alone do not tell, some CPUs have them at half the speed of float32."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    if not torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.float32
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    is_faster = seconds[torch.float32] > _MIN_GAIN * seconds[torch.bfloat16]
    return torch.bfloat16 if is_faster else torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """The best of some products [512, 768] x [768, 2048]."""
    left, right = torch.ones(512, 768, dtype=dtype), torch.ones(2048, 768, dtype=dtype)
    best = float("inf")
    for _ in range(_TRIES):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - start)
    return best
