"""Builders for model tests: a backend over a folder, and sequences that are fed to it in pieces.

`Batch` keeps scattered block tables like the scheduler would, so that a test says only which
sequence computes how many tokens.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.kernels import native
from shoal.model.loader import load_checkpoint
from shoal.runner.inputs import Backend, Float32, StepInputs

BLOCK_SIZE = 16
NUM_BLOCKS = 160
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="not built")),
]


def make_backend(folder: Path, kind: str = "torch", *, num_blocks: int = NUM_BLOCKS) -> Backend:
    """float32 on the CPU."""
    checkpoint = load_checkpoint(folder, lambda progress: None)
    if kind == "native":
        from shoal.runner.native_backend import NativeBackend

        return NativeBackend(
            checkpoint, dtype="float32", num_blocks=num_blocks, max_step_tokens=2048, num_threads=1
        )
    torch = pytest.importorskip("torch")
    from shoal.runner.torch_backend import TorchBackend

    return TorchBackend(
        checkpoint,
        dtype=torch.float32,
        device="cpu",
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
    )


@dataclass(slots=True)
class Sequence:
    """Tokens, how many of them are computed, and where."""

    token_ids: list[int]
    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0


@dataclass(slots=True)
class Batch:
    """Sequences of one backend over a shuffled pool of blocks."""

    backend: Backend
    free: list[int]

    @classmethod
    def over(
        cls, backend: Backend, *, seed: int | None = 0, num_blocks: int = NUM_BLOCKS
    ) -> "Batch":
        order = np.arange(num_blocks)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(num_blocks)
        return cls(backend, order.tolist())

    def step(self, parts: list[tuple[Sequence, int]], *, every_logit: bool = False) -> Float32:
        """Computes so many more tokens of each; logits of each one's last token, or of all."""
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for seq, count in parts:
            end = seq.num_computed + count
            while len(seq.block_ids) * BLOCK_SIZE < end:
                seq.block_ids.append(self.free.pop())
            for position in range(seq.num_computed, end):
                token_ids.append(seq.token_ids[position])
                positions.append(position)
                block = seq.block_ids[position // BLOCK_SIZE]
                slots.append(block * BLOCK_SIZE + position % BLOCK_SIZE)
            seq.num_computed = end
            starts.append(len(token_ids))
        lengths = [seq.num_computed for seq, _ in parts]
        width = max(-(-length // BLOCK_SIZE) for length in lengths)
        tables = np.zeros((len(parts), width), np.int32)
        for row, (seq, _) in enumerate(parts):
            used = seq.block_ids[:width]
            tables[row, : len(used)] = used
        wanted = range(len(token_ids)) if every_logit else [start - 1 for start in starts[1:]]
        return self.backend.forward(
            StepInputs(
                token_ids=np.array(token_ids, np.int32),
                positions=np.array(positions, np.int32),
                slots=np.array(slots, np.int32),
                row_starts=np.array(starts, np.int32),
                context_lens=np.array(lengths, np.int32),
                block_tables=tables,
                logit_indices=np.array(wanted, np.int32),
            )
        )

    def end(self, seq: Sequence) -> None:
        """Gives the blocks back."""
        self.free += seq.block_ids
        seq.block_ids = []


def whole_logits(batch: Batch, token_ids: list[int]) -> Float32:
    """Logits [n, vocab] of a sequence computed in one go."""
    seq = Sequence(token_ids)
    logits = batch.step([(seq, len(token_ids))], every_logit=True)
    batch.end(seq)
    return logits


def greedy(batch: Batch, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """The best next tokens of several prompts, computed together."""
    seqs = [Sequence(list(prompt)) for prompt in prompts]
    logits = batch.step([(seq, len(seq.token_ids)) for seq in seqs])
    for _ in range(num_tokens - 1):
        append(seqs, logits)
        logits = batch.step([(seq, 1) for seq in seqs])
    append(seqs, logits)
    for seq in seqs:
        batch.end(seq)
    return [seq.token_ids[-num_tokens:] for seq in seqs]


def append(seqs: list[Sequence], logits: Float32) -> None:
    for seq, token_id in zip(seqs, logits.argmax(axis=1).tolist(), strict=True):
        seq.token_ids.append(token_id)


def random_ids(num: int, seed: int = 0, vocab: int = 261) -> list[int]:
    found: NDArray[np.int64] = np.random.default_rng(seed).integers(0, vocab, num)
    return [int(token_id) for token_id in found]
