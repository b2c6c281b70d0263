from typing import Any

import numpy as np
from numpy.typing import NDArray

_Int32 = NDArray[np.int32]
_Float32 = NDArray[np.float32]

class Model:
    def allocate(self, layer: int, name: str, outputs: int, inputs: int, /) -> None: ...
    def pack(
        self,
        layer: int,
        name: str,
        matrix: NDArray[Any],
        transposed: bool,
        first: int,
        part: int,
        /,
    ) -> None: ...
    def set_vector(self, layer: int, name: str, vector: _Float32, /) -> None: ...
    def set_table(self, name: str, matrix: NDArray[Any], /) -> None: ...
    def step(
        self,
        token_ids: _Int32,
        positions: _Int32,
        slots: _Int32,
        row_starts: _Int32,
        context_lens: _Int32,
        block_tables: _Int32,
        head_tokens: _Int32,
        logits: _Float32 | None,
        top_ids: _Int32 | None,
        top_values: _Float32 | None,
        log_sum_exp: _Float32 | None,
        target_ids: _Int32 | None,
        targets: _Float32 | None,
        hidden: _Float32 | None,
        /,
    ) -> None: ...
    def copy_block(self, source: int, target: int, /) -> None: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def kernel_set(self) -> str: ...

class Sampler:
    def sample(
        self,
        logits: _Float32,
        temperature: _Float32,
        top_k: _Int32,
        top_p: NDArray[np.float64],
        min_p: NDArray[np.float64],
        typical_p: NDArray[np.float64],
        seed: NDArray[np.uint64],
        position: NDArray[np.uint64],
        tokens: _Int32,
        /,
    ) -> None: ...
    def logprobs(
        self,
        logits: _Float32,
        token_ids: _Int32,
        nums_best: _Int32,
        own: _Float32,
        best_ids: _Int32,
        best: _Float32,
        /,
    ) -> None: ...

def kernel_sets() -> list[str]: ...
def make_model(
    config: dict[str, Any],
    dtype: str,
    kernel_set: str,
    num_blocks: int,
    max_tokens: int,
    threads: int,
    spin_us: int,
    cache_bytes: int | None,
    /,
) -> Model: ...
def make_sampler(vocab_size: int, kernel_set: str, /) -> Sampler: ...
