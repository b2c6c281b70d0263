"""Which values each token of a step finds before it in layers with a short convolution."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.model.spec import ShortConvSpec
from shoal.model.torch.short_conv import ConvBatch
from shoal.runner.inputs import StepInputs


def conv_batch(inputs: StepInputs, spec: ShortConvSpec, block_size: int, device: str) -> ConvBatch:
    """For R rows with T tokens. The history is `kernel_size - 1` values of each row, the one right
    before its first token first; places before the sequence's start are there and never chosen."""
    back, kept_of_block = spec.kernel_size - 1, spec.values_per_block(block_size)
    counts = np.diff(inputs.row_starts).astype(np.int64)
    num_rows, num_tokens = len(counts), len(inputs.token_ids)
    row_of = np.repeat(np.arange(num_rows), counts)
    index = np.arange(num_tokens) - inputs.row_starts[:-1].astype(np.int64)[row_of]  # in its row
    computed = inputs.context_lens - counts  # [R]
    before = np.maximum(computed[:, None] - 1 - np.arange(back), 0)  # [R, back] positions
    blocks = np.take_along_axis(inputs.block_tables.astype(np.int64), before // block_size, 1)
    history = blocks * kept_of_block + before % block_size % kept_of_block
    zero = num_tokens + history.size

    def sources(distance: int) -> NDArray[np.int64]:
        """Where the value that lies so far behind each token is."""
        in_history = num_tokens + row_of * back + distance - index - 1
        is_known = computed[row_of] + index >= distance
        in_step = np.arange(num_tokens) - distance
        return np.where(index >= distance, in_step, np.where(is_known, in_history, zero))

    block_ids, offsets = np.divmod(inputs.slots.astype(np.int64), block_size)
    is_followed = index + kept_of_block < counts[row_of]
    kept = np.flatnonzero(~is_followed | (offsets + kept_of_block >= block_size))
    places = block_ids[kept] * kept_of_block + offsets[kept] % kept_of_block

    def tensor(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return ConvBatch(
        history=tensor(history.reshape(-1)),
        sources=tensor(np.stack([sources(back - tap) for tap in range(back + 1)])),
        kept=tensor(kept),
        kept_places=tensor(places),
    )
