"""The native CPU library as a backend: a whole step is one call, and torch is never imported."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.files import BLOCKS, StoredTensor
from shoal.checkpoint.mapped import drop_pages
from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.kernels.native import AdaptedLinears, Dtype, KVDtype
from shoal.model.adapter import AdapterMatrix
from shoal.model.spec import DecoderSpec, Role
from shoal.protocol.step import KVMemory
from shoal.runner.inputs import Float32, HeadOutputs, Lens, StepInputs

_NO_IDS: NDArray[np.int32] = np.empty(0, np.int32)


class NativeBackend:
    """One model with its KV cache in the library's memory."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Mapping[Role, StoredTensor],
        *,
        dtype: Dtype,
        num_blocks: int,
        max_step_tokens: int,
        num_threads: int,
        num_token_ids: int | None = None,
        kv_dtype: KVDtype = "auto",
    ) -> None:
        """`max_step_tokens`: most tokens of one step. `num_token_ids`: rows of the vocabulary that
        are tokens, the others are padding that is never picked; None = all. `kv_dtype`: as of
        `NativeModel`. Raises ConfigError when the library is not built, ValueError for a spec with
        features that `native.supports` names."""
        if not native.available():
            raise ConfigError(
                "kernels=native is set, and the native library is not built: reinstall "
                "Shoal with a C++ compiler at hand"
            )
        self._no_logits = np.empty((0, spec.vocab_size), np.float32)
        self._model = native.NativeModel(
            spec,
            {
                role: (tensor.dtype, tensor.array) if tensor.dtype in BLOCKS else tensor.array
                for role, tensor in weights.items()
            },
            dtype=dtype,
            num_blocks=num_blocks,
            max_tokens=max_step_tokens,
            num_threads=num_threads,
            num_token_ids=num_token_ids,
            kv_dtype=kv_dtype,
            on_packed=lambda role: drop_pages(weights[role].array),
        )
        self.name = self._model.kernel_set
        self.weight_bytes = self._model.weight_bytes
        self.kv_memory = KVMemory(self._model.block_bytes, self._model.release_blocks)

    def load_adapter(self, adapter_id: int, matrices: Sequence[AdapterMatrix]) -> None:
        self._model.load_adapter(adapter_id, adapted_linears(matrices))

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees one that no row has; unknown ids are ignored."""
        self._model.unload_adapter(adapter_id)

    def forward(self, inputs: StepInputs) -> Float32:
        """float32 logits [L, vocab_size], padded rows of the vocabulary included."""
        return self._model.forward(
            inputs.token_ids,
            inputs.positions,
            inputs.slots,
            inputs.row_starts,
            inputs.context_lens,
            inputs.block_tables,
            inputs.logit_indices,
            adapter_ids=inputs.adapter_ids,
        )

    def forward_best(self, inputs: StepInputs, num_logits: int) -> HeadOutputs:
        """Best ids of all L tokens; logits [num_logits, vocab_size] of the first ones only; the
        lens and the final vectors of those that have them."""
        num_rows, wants_lens = len(inputs.logit_indices), inputs.lens_indices is not None
        if num_rows == 0 and inputs.hidden_indices is None:
            self.forward(inputs)
            return HeadOutputs(_NO_IDS, self._no_logits[:, 0], self._no_logits)
        head = self._model.forward_head(
            inputs.token_ids,
            inputs.positions,
            inputs.slots,
            inputs.row_starts,
            inputs.context_lens,
            inputs.block_tables,
            inputs.logit_indices,
            num_logits=num_logits,
            top=1 if num_rows else 0,
            log_sum_exp=wants_lens,
            adapter_ids=inputs.adapter_ids,
            lens_indices=inputs.lens_indices,
            hidden_indices=inputs.hidden_indices,
        )
        if num_rows == 0:
            return HeadOutputs(_NO_IDS, self._no_logits[:, 0], self._no_logits, hidden=head.hidden)
        assert head.top_ids is not None, "the best ids were requested"
        assert head.top_logits is not None, "the best logits were requested"
        logits = self._no_logits if head.logits is None else head.logits
        best_ids, best = head.top_ids[:, 0], head.top_logits[:, 0]
        if inputs.lens_indices is None:
            return HeadOutputs(best_ids, best, logits, hidden=head.hidden)
        assert head.log_sum_exp is not None, "it was requested"
        shape = (-1, len(inputs.lens_indices))
        lens = Lens(
            best_ids[num_rows:].reshape(shape),
            (best[num_rows:] - head.log_sum_exp).reshape(shape),
        )
        return HeadOutputs(best_ids[:num_rows], best[:num_rows], logits, lens, head.hidden)


_LINEAR_OF = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "up"}
"""Roles whose matrices lie in one linear layer of the library; any other is one by itself."""


def adapted_linears(matrices: Sequence[AdapterMatrix]) -> AdaptedLinears:
    """Products that read the same input become one: their A below each other."""
    groups: dict[tuple[int, str], list[AdapterMatrix]] = {}
    for matrix in matrices:
        name = _LINEAR_OF.get(matrix.roles[0], matrix.roles[0])
        groups.setdefault((matrix.layer, name), []).append(matrix)
    found: AdaptedLinears = []
    for (layer, _), group in groups.items():
        rows: list[Float32] = []
        outputs: list[tuple[str, int, Float32]] = []
        for matrix in group:
            first = sum(map(len, rows))
            outputs += [(role, first, b) for role, b in zip(matrix.roles, matrix.b, strict=True)]
            rows.append(np.pad(matrix.a, ((0, len(matrix.a) % 2), (0, 0))))  # even places
        found.append((layer, np.concatenate(rows), outputs))
    return found


def native_kv_dtype(wanted: str) -> KVDtype:
    """Raises ConfigError for one that the library does not have."""
    if wanted == "int8":
        return "int8"
    if wanted == "auto":
        return "auto"
    raise ConfigError(f"kv_cache_dtype={wanted} is unknown: set auto or int8")


def native_dtype(wanted: str, stored: str, quantize: str = "none", blocks: bool = False) -> Dtype:
    """auto: the checkpoint's own; bfloat16 weights stay 16 bits in memory, sums are float32, and
    quantized blocks (`blocks`: are there any?) stay as they are. Weights to quantize are int8 or
    int4 whatever was stored. Raises ConfigError for what contradicts."""
    if quantize in ("int8", "int4"):
        if wanted == "float32":
            raise ConfigError(
                f"dtype=float32 and quantize={quantize} contradict: set one of them only"
            )
        return cast(Dtype, quantize)
    if wanted in ("float32", "bfloat16"):
        return cast(Dtype, wanted)
    if blocks:
        return "blocks"
    return "bfloat16" if stored == "bfloat16" else "float32"


def main_block_type(weights: Mapping[Role, StoredTensor]) -> str | None:
    """The quantized type of most numbers of the layers; None without blocks."""
    numbers: Counter[str] = Counter()
    for role, tensor in weights.items():
        if tensor.dtype in BLOCKS:
            numbers[tensor.dtype] += prod(tensor.shape) if role.layer is not None else 1
    return numbers.most_common(1)[0][0] if numbers else None


def packed_bytes(weights: Mapping[Role, StoredTensor], dtype: Dtype) -> int:
    """Memory that the packed weights take, but for padding."""
    return int(sum(_bits(role, w, dtype) * prod(w.shape) for role, w in weights.items()) / 8)


def _bits(role: Role, tensor: StoredTensor, dtype: Dtype) -> float:
    """Of one number, scales and mins of its group included."""
    if dtype in ("float32", "bfloat16"):
        return 32 if dtype == "float32" else 16
    is_table = role.name in ("embedding", "head.weight")
    if tensor.dtype not in BLOCKS:
        if dtype == "blocks":
            return 16 if tensor.dtype == "BF16" else 32
        return 5 if dtype == "int4" and not is_table else 8.5
    has_min = tensor.dtype in ("Q5_1", "Q5_K")
    stored = 5 if tensor.dtype.startswith("Q4") else 9 if has_min else 8.5
    return 5 if dtype == "int4" and not is_table else stored
