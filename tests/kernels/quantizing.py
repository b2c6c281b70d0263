"""Quantized blocks for kernel tests, and what the integer formats compute, in numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
}  # fmt: skip
"""Numbers and bytes of a block."""
_SCALES_AT = {"Q4_0": 1, "Q5_0": 1, "Q8_0": 1, "Q4_1": 2, "Q5_1": 2, "Q4_K": 2, "Q5_K": 2}
"""How many float16 scales a block begins with; Q6_K ends with one."""


def random_blocks(kind: str, rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    """Rows of blocks [rows, bytes] with random bits but for scales, which are small numbers."""
    rng = np.random.default_rng(seed)
    numbers, num_bytes = BLOCK_BYTES[kind]
    blocks = rng.integers(0, 256, (rows, cols // numbers, num_bytes), np.uint8)
    count = _SCALES_AT.get(kind, 1)
    scales = rng.normal(0, 0.01 if numbers == 32 else 0.0005, (*blocks.shape[:2], count))
    halves = scales.astype(np.float16).view(np.uint8).reshape(*blocks.shape[:2], 2 * count)
    if kind == "Q6_K":
        blocks[..., -2:] = halves
    else:
        blocks[..., : 2 * count] = halves
    return blocks.reshape(rows, -1)


def dequantized(kind: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the blocks stand for, as the `gguf` package says."""
    import gguf

    numbers: Any = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    return np.asarray(numbers, np.float32)


def groups_of_32(x: NDArray[Any]) -> NDArray[np.float32]:
    """[rows, groups, 32], padded with zeros."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 32)))
    return padded.reshape(len(x), -1, 32).astype(np.float32)


def int8_weights(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [out, in] within +-127 of a float16 scale per 32 inputs, rounded up where it must."""
    groups = groups_of_32(weight)
    largest = np.abs(groups).max(-1, keepdims=True)
    scale = (largest / np.float32(127)).astype(np.float16)
    is_low = scale.astype(np.float32) * np.float32(127.5) < largest
    scale = np.where(is_low, np.nextafter(scale, np.float16(np.inf)), scale).astype(np.float32)
    integers = np.rint(groups / np.where(scale > 0, scale, 1)).clip(-127, 127)
    return np.asarray((integers * scale).reshape(len(weight), -1)[:, : weight.shape[1]])


def int4_weights(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [out, in] as the library keeps them: its search for scales is tested by its error."""
    from shoal.kernels.linear import kept

    return kept(weight, weight.shape[1], "int4")


def int8_rows(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows [rows, in] as the integer tiles read them: within +-127 of a scale per 32, which is an
    integer up to 2^14 times a float32 unit per row."""
    groups = groups_of_32(x)
    largest = np.abs(groups).max(-1, keepdims=True)
    of_row = largest.max(1, keepdims=True)
    inverse = np.where(of_row >= 1e-30, np.float32(2**14) / np.maximum(of_row, 1e-30), 0)
    inverse = inverse.astype(np.float32)
    scale = np.minimum(np.ceil(largest * inverse), 2**14)
    per_unit = np.float32(127) * inverse / np.maximum(scale, 1)
    integers = np.rint(groups * per_unit).astype(np.float64)
    unit = of_row * (np.float32(1) / np.float32(127 * 2**14))
    return np.asarray((integers * scale * unit).reshape(len(x), -1)[:, : x.shape[1]])
