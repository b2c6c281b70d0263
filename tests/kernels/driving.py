"""Runs sequences through a native model: keeps their blocks, takes any chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.native import BLOCK_SIZE, NativeModel


@dataclass
class Driver:
    """A model and the sequences in its KV cache."""

    model: NativeModel
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    tables: dict[int, list[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.free = self.rng.permutation(self.model.num_blocks).tolist()

    def arrays(self, rows: Sequence[tuple[int, Sequence[int]]]) -> tuple[NDArray[np.int32], ...]:
        """Step inputs for (sequence, new token ids) pairs, logits requested for every token."""
        ids, positions, slots, starts, contexts, tables = [], [], [], [0], [], []
        for seq, new in rows:
            table = self.tables.setdefault(seq, [])
            start = self.lengths.get(seq, 0)
            end = start + len(new)
            while len(table) * BLOCK_SIZE < end:
                table.append(self.free.pop())
            ids += list(new)
            positions += range(start, end)
            slots += [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                      for p in range(start, end)]  # fmt: skip
            starts.append(len(ids))
            contexts.append(end)
            tables.append(table)
            self.lengths[seq] = end
        width = max(map(len, tables))
        padded = [table + [0] * (width - len(table)) for table in tables]
        values = (ids, positions, slots, starts, contexts, padded, range(len(ids)))
        return tuple(np.array(value, np.int32) for value in values)

    def step(self, rows: Sequence[tuple[int, Sequence[int]]]) -> NDArray[np.float32]:
        """Logits [all new tokens, vocab_size]."""
        return self.model.forward(*self.arrays(rows), None)


def logits_of(model: NativeModel, token_ids: Sequence[int], chunk: int = 10**6) -> NDArray[Any]:
    """Logits [T, vocab_size] of one sequence alone, `chunk` tokens a step."""
    driver = Driver(model)
    parts = [token_ids[i : i + chunk] for i in range(0, len(token_ids), chunk)]
    return np.concatenate([driver.step([(0, part)]) for part in parts])


def run_random_chunks(
    model: NativeModel, prompts: list[list[int]], seed: int, biggest: int
) -> list[np.ndarray]:
    """Logits of every token of every prompt, computed in random company, order and chunks."""
    rng = np.random.default_rng(seed)
    driver, done = Driver(model, rng), [0] * len(prompts)
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    while any(d < len(p) for d, p in zip(done, prompts, strict=True)):
        ready = [i for i in range(len(prompts)) if done[i] < len(prompts[i])]
        chosen = rng.permutation(ready)[: rng.integers(1, len(ready) + 1)].tolist()
        sizes = [int(rng.integers(1, biggest + 1)) for _ in chosen]
        rows = [(i, prompts[i][done[i] : done[i] + n]) for i, n in zip(chosen, sizes, strict=True)]
        logits = driver.step(rows)
        ends = np.cumsum([0] + [len(new) for _, new in rows])
        for (i, new), (a, b) in zip(rows, pairwise(ends), strict=True):
            found[i].append(logits[a:b])
            done[i] += len(new)
    return [np.concatenate(parts) for parts in found]
