"""Quantized blocks of GGUF to the numbers they stand for."""

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.files import BLOCKS, StoredTensor

_SCALES: Mapping[str, slice] = {
    "Q4_0": slice(0, 2),
    "Q4_1": slice(0, 4),
    "Q5_0": slice(0, 2),
    "Q5_1": slice(0, 4),
    "Q8_0": slice(0, 2),
    "Q4_K": slice(0, 4),
    "Q5_K": slice(0, 4),
    "Q6_K": slice(208, 210),
}
"""Bytes of a block that are float16: its scale, and its minimum where it has one."""
_ROWS_AT_ONCE = 1 << 12


def dequantize(tensor: StoredTensor) -> NDArray[np.float32]:
    """The tensor's numbers, float32, in its `shape`; exact for every type, BF16 included."""
    if tensor.dtype in BLOCKS:
        import gguf  # not at the top: it is slow to load, and most models have no blocks

        kind = gguf.GGMLQuantizationType[tensor.dtype]
        return cast(NDArray[np.float32], gguf.quants.dequantize(tensor.array, kind))
    if tensor.dtype == "BF16":
        return (tensor.array.astype(np.uint32) << 16).view(np.float32)
    return tensor.array.astype(np.float32)


def has_finite_scales(tensor: StoredTensor) -> bool:
    """Are the scales and minima of all blocks finite? Then so are the numbers."""
    num_bytes, scales = BLOCKS[tensor.dtype].num_bytes, _SCALES[tensor.dtype]
    rows = tensor.array.reshape(-1, tensor.array.shape[-1])
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        blocks = rows[start : start + _ROWS_AT_ONCE].reshape(-1, num_bytes)
        if not np.isfinite(np.ascontiguousarray(blocks[:, scales]).view(np.float16)).all():
            return False
    return True
