"""Plain PyTorch as a backend: the reference on a CPU, the fast path on a GPU."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.model.attention import AttentionBatch, DecodeRows, KVLayer, PrefillRow
from shoal.model.config import ModelConfig
from shoal.model.gpt2 import Gpt2Network
from shoal.model.layers import Weights
from shoal.model.llama import LlamaNetwork
from shoal.model.loader import Checkpoint
from shoal.runner.inputs import Float32, Int32, StepInputs


class TorchBackend:
    """One model with its KV cache."""

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: str,
        num_blocks: int,
        block_size: int,
    ) -> None:
        config = checkpoint.config
        weights = Weights(checkpoint.tensors, dtype, device)
        network = LlamaNetwork if config.architecture == "llama" else Gpt2Network
        self._config = config
        self._network = network(config, weights)
        self._device = device
        self._block_size = block_size
        self._cache = [
            KVLayer(
                num_kv_heads=config.num_kv_heads,
                num_blocks=num_blocks,
                block_size=block_size,
                head_size=config.head_size,
                dtype=dtype,
                device=device,
            )
            for _ in range(config.num_layers)
        ]

    @torch.inference_mode()
    def forward(self, inputs: StepInputs) -> Float32:
        """float32 logits [L, vocab]."""
        if len(inputs.logit_indices) == 0:  # the network still writes keys and values
            self._run(inputs)
            return np.empty((0, self._config.vocab_size), np.float32)
        logits: Float32 = self._run(inputs).float().cpu().numpy()
        return logits

    def _run(self, inputs: StepInputs) -> Tensor:
        return self._network.forward(
            self._tensor(inputs.token_ids),
            self._tensor(inputs.positions),
            attention_batch(inputs, self._config, self._block_size, self._device),
            self._cache,
            self._tensor(inputs.logit_indices),
        )

    def _tensor(self, array: Int32) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)


def attention_batch(
    inputs: StepInputs, config: ModelConfig, block_size: int, device: str
) -> AttentionBatch:
    """Which keys each row reads, as tensors."""
    counts = np.diff(inputs.row_starts)
    single = np.flatnonzero(counts == 1)
    prefills = [
        _prefill_row(inputs, int(row), config.sliding_window, block_size, device)
        for row in np.flatnonzero(counts > 1)
    ]
    return AttentionBatch(
        slots=torch.from_numpy(inputs.slots.astype(np.int64)).to(device),
        decode=_decode_rows(inputs, single, config.sliding_window, block_size, device)
        if len(single)
        else None,
        prefills=prefills,
    )


def _decode_rows(
    inputs: StepInputs, rows: NDArray[np.int64], window: int | None, block_size: int, device: str
) -> DecodeRows:
    lengths = inputs.context_lens[rows].astype(np.int64)[:, None]  # [D, 1]
    num_blocks = -(-lengths // block_size)
    tables = inputs.block_tables[rows, : num_blocks.max()].astype(np.int64)  # [D, B]
    blocks = np.where(np.arange(tables.shape[1]) < num_blocks, tables, tables[:, :1])
    places = np.arange(blocks.shape[1] * block_size)  # [C]
    unseen = places >= lengths
    stale = np.flatnonzero(unseen)
    if window is not None:
        unseen |= places < lengths - window
    return DecodeRows(
        token_indices=torch.from_numpy(inputs.row_starts[rows].astype(np.int64)).to(device),
        blocks=torch.from_numpy(blocks.reshape(-1)).to(device),
        unseen=torch.from_numpy(unseen).to(device),
        stale=torch.from_numpy(stale).to(device),
    )


def _prefill_row(
    inputs: StepInputs, row: int, window: int | None, block_size: int, device: str
) -> PrefillRow:
    start, end = int(inputs.row_starts[row]), int(inputs.row_starts[row + 1])
    length = int(inputs.context_lens[row])
    queries = np.arange(length - (end - start), length)[:, None]
    keys = np.arange(length)
    seen = keys <= queries
    if window is not None:
        seen &= keys > queries - window
    slots = _slots(inputs.block_tables[row : row + 1], length, block_size)[0]
    return PrefillRow(
        start, end, torch.from_numpy(slots).to(device), torch.from_numpy(seen).to(device)
    )


def _slots(block_tables: Int32, length: int, block_size: int) -> NDArray[np.int64]:
    """[rows, length] slots of positions 0 .. length - 1."""
    num_blocks = -(-length // block_size)
    first = block_tables[:, :num_blocks].astype(np.int64) * block_size
    slots = first[:, :, None] + np.arange(block_size)
    return slots.reshape(len(block_tables), -1)[:, :length]
