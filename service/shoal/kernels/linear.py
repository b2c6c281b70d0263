"""One linear layer of the native library by itself: what a format keeps of weights, its products.

For tests and measurements; a model step never comes here.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoal.kernels import _native
from shoal.kernels.native import Float32, KernelSet, Weight

Format = Literal["f32", "bf16", "int4", "int8", "int8_min", "int16_block", "bf16_packed12"]


def kept(weight: Weight, cols: int, weight_format: Format) -> Float32:
    """The weights [out, cols] as the format keeps them. Where it would lose too much of a row all
    of them are bf16. Raises ValueError for what is no weight."""
    array, blocks = _array_and_blocks(weight)
    out = np.empty((len(array), cols), np.float32)
    _native.unpack(array, blocks, weight_format, out)
    return out


def multiply(
    x: Float32, weight: Weight, weight_format: Format, kernel_set: KernelSet = "auto"
) -> Float32:
    """x [rows, in] times weights [out, in] as the format multiplies them: [rows, out]; at most 96
    rows. Raises ValueError for shapes that do not fit, and for a format that the kernel set does
    not multiply."""
    array, blocks = _array_and_blocks(weight)
    out = np.empty((len(x), len(array)), np.float32)
    _native.multiply(x, array, blocks, weight_format, kernel_set, out)
    return out


def _array_and_blocks(weight: Weight) -> tuple[NDArray[Any], str | None]:
    if isinstance(weight, tuple):
        blocks, rows = weight
        return rows, blocks
    return weight, None
