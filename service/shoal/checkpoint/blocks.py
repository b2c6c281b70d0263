"""Quantized blocks of GGUF to the numbers they stand for."""

from typing import cast

import gguf
import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.files import BLOCKS, StoredTensor


def dequantize(tensor: StoredTensor) -> NDArray[np.float32]:
    """The tensor's numbers, float32, in its `shape`; exact for every type, BF16 included."""
    if tensor.dtype in BLOCKS:
        kind = gguf.GGMLQuantizationType[tensor.dtype]
        return cast(NDArray[np.float32], gguf.quants.dequantize(tensor.array, kind))
    if tensor.dtype == "BF16":
        return (tensor.array.astype(np.uint32) << 16).view(np.float32)
    return tensor.array.astype(np.float32)
