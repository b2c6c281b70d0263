from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.model.spec import DecoderSpec

_Int32 = NDArray[np.int32]
_Float32 = NDArray[np.float32]

class Model:
    def propose_format(
        self, layer: int, role: str, weight: NDArray[Any], blocks: str | None, /
    ) -> None: ...
    def set_weight(
        self, layer: int, role: str, weight: NDArray[Any], blocks: str | None, /
    ) -> None: ...
    def step(
        self,
        token_ids: _Int32,
        positions: _Int32,
        slots: _Int32,
        row_starts: _Int32,
        context_lens: _Int32,
        block_tables: _Int32,
        logit_indices: _Int32,
        logits: _Float32 | None,
        top_ids: _Int32 | None,
        top_values: _Float32 | None,
        log_sum_exp: _Float32 | None,
        target_ids: _Int32 | None,
        targets: _Float32 | None,
        hidden: _Float32 | None,
        adapter_ids: _Int32 | None,
        lens_indices: _Int32 | None,
        hidden_indices: _Int32 | None,
        /,
    ) -> None: ...
    def load_adapter(
        self,
        adapter_id: int,
        linears: list[tuple[int, _Float32, list[tuple[str, int, _Float32]]]],
        /,
    ) -> None: ...
    def unload_adapter(self, adapter_id: int, /) -> None: ...
    def copy_block(self, source: int, target: int, /) -> None: ...
    def release_block(self, block: int, /) -> None: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def kernel_set(self) -> str: ...

class RowArrays:
    def __init__(
        self,
        temperature: _Float32,
        top_k: _Int32,
        top_p: NDArray[np.float64],
        min_p: NDArray[np.float64],
        typical_p: NDArray[np.float64],
        seed: NDArray[np.uint64],
        position: NDArray[np.uint64],
        masks: NDArray[np.uint32] | None,
        mask_of_row: _Int32 | None,
        checks: NDArray[np.uint32] | None,
        check_of_row: _Int32 | None,
        num_chars: NDArray[np.uint8] | None,
        table_of_row: _Int32 | None,
        others: _Int32 | None,
        seeds: NDArray[np.uint64] | None,
        /,
    ) -> None: ...

class Sampler:
    def sample(
        self,
        logits: _Float32,
        arrays: RowArrays,
        first: _Int32 | None,
        rows: _Int32 | None,
        tokens: _Int32,
        /,
    ) -> None: ...
    def logprobs(
        self,
        logits: _Float32,
        token_ids: _Int32,
        num_top: _Int32,
        own: _Float32,
        top_ids: _Int32,
        top: _Float32,
        /,
    ) -> None: ...

class RowTracker:
    def begin(self, masks: _Int32, table: _Int32, before: list[int], /) -> None: ...
    def set_tables(self, num_chars: NDArray[np.uint8], /) -> None: ...
    def look_at(self, row: int, column: int, has_others: bool, needs_mask: bool, /) -> None: ...
    def put(self, row: int, table: int, chars_left: int, place: int, /) -> None: ...
    def take(self, row: int, /) -> tuple[int, list[int]]: ...
    def add_place(self, table: int, chars_left: int, mask: int, /) -> int: ...
    def set_mask(self, place: int, mask: int, /) -> None: ...
    def add_way(self, start: int, token: int, end: int, /) -> None: ...
    def add_plain_way(self, start: int, end: int, others: list[int], /) -> None: ...
    def forget_places(self) -> None: ...
    def to_look_at(self, tokens: _Int32, /) -> list[int]: ...
    def advance(self, tokens: _Int32, /) -> list[int]: ...

def unpack(weight: NDArray[Any], blocks: str | None, format: str, out: _Float32, /) -> None: ...
def multiply(
    x: _Float32,
    weight: NDArray[Any],
    blocks: str | None,
    format: str,
    kernel_set: str,
    out: _Float32,
    /,
) -> None: ...
def kernel_sets() -> list[str]: ...
def make_model(
    spec: DecoderSpec,
    num_token_ids: int,
    dtype: str,
    kernel_set: str,
    num_blocks: int,
    max_tokens: int,
    threads: int,
    spin_us: int,
    cache_bytes: int | None,
    int8_kv: bool,
    /,
) -> Model: ...
def make_sampler(vocab_size: int, num_token_ids: int, kernel_set: str, /) -> Sampler: ...
