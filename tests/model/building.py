"""Builders for model tests: tokens, a driver that gives any chunks to a backend, the reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shoal.model.loader import load_checkpoint
from shoal.runner.inputs import Float32, StepInputs
from shoal.runner.torch_backend import TorchBackend

BLOCK_SIZE = 4


def make_backend(folder: Path, *, num_blocks: int = 200) -> TorchBackend:
    """float32 on the CPU; every slot of the cache holds NaN until it is written."""
    backend = TorchBackend(
        load_checkpoint(folder, lambda progress: None),
        dtype=torch.float32,
        device="cpu",
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
    )
    for layer in backend._cache:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    return backend


class Driver:
    """Keeps block tables of sequences, scattered over the cache, and runs any chunks of them."""

    def __init__(self, backend: TorchBackend, *, num_blocks: int = 200, seed: int = 0) -> None:
        self._backend = backend
        self._free = np.random.default_rng(seed).permutation(num_blocks).tolist()
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    def step(self, rows: Sequence[tuple[int, Sequence[int]]]) -> dict[int, Float32]:
        """(sequence, its next tokens) pairs in one step -> logits [tokens, vocab] of each."""
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts, contexts = [0], []
        for seq, tokens in rows:
            table = self._tables.setdefault(seq, [])
            start = self._lengths.get(seq, 0)
            end = self._lengths[seq] = start + len(tokens)
            while len(table) * BLOCK_SIZE < end:
                table.append(self._free.pop())
            ids += tokens
            positions += range(start, end)
            slots += [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                      for p in range(start, end)]  # fmt: skip
            starts.append(len(ids))
            contexts.append(end)
        width = max(len(self._tables[seq]) for seq, _ in rows)
        tables = [self._tables[seq] + [0] * (width - len(self._tables[seq])) for seq, _ in rows]
        columns = (ids, positions, slots, starts, contexts, tables, range(len(ids)))
        logits = self._backend.forward(StepInputs(*(np.array(c, np.int32) for c in columns)))
        return {
            seq: logits[start:end]
            for (seq, _), start, end in zip(rows, starts, starts[1:], strict=False)
        }

    def whole(self, seq: int, tokens: Sequence[int], chunks: Sequence[int]) -> Float32:
        """Logits of all tokens of one sequence, alone, in chunks of these sizes."""
        ends = np.cumsum(chunks)
        parts = [
            self.step([(seq, tokens[end - size : end])])[seq]
            for end, size in zip(ends.tolist(), chunks, strict=True)
        ]
        return np.concatenate(parts)


def random_tokens(count: int, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(0, 261, count).tolist()
    return tokens


def random_chunks(total: int, rng: np.random.Generator) -> list[int]:
    """Chunk sizes that add up to `total`; single tokens are frequent, as in decoding."""
    chunks: list[int] = []
    while (left := total - sum(chunks)) > 0:
        chunks.append(min(left, int(rng.choice([1, 1, 2, 5, 9, 30]))))
    return chunks


def transformers_logits(folder: Path, tokens: Sequence[int]) -> NDArray[Any]:
    """What Hugging Face computes for the folder in float32, [tokens, vocab]."""
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    network.eval()
    with torch.inference_mode():
        logits: NDArray[Any] = network(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits
