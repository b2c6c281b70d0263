"""Plain PyTorch as a backend: the reference on a CPU, the fast path on a GPU."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.checkpoint.files import StoredTensor
from shoal.model.adapter import AdapterMatrix
from shoal.model.spec import AttentionSpec, DecoderSpec, Role, ShortConvSpec
from shoal.model.torch.adapters import AdapterTokens
from shoal.model.torch.attention import (
    AttentionBatch,
    DecodeRows,
    KVLayer,
    PrefillRow,
    Sight,
    sight_of,
)
from shoal.model.torch.decoder import Decoder
from shoal.model.torch.layers import TorchWeights
from shoal.model.torch.short_conv import ConvLayer
from shoal.runner.backends.torch_conv import conv_batch
from shoal.runner.inputs import Float32, Int32, Lens, StepInputs


class TorchBackend:
    """One model with its KV cache."""

    name = "torch"

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Mapping[Role, StoredTensor],
        *,
        dtype: torch.dtype,
        device: str,
        num_blocks: int,
        block_size: int,
        num_token_ids: int | None = None,
    ) -> None:
        """`num_token_ids`: rows of the vocabulary that are tokens, the others are padding that a
        lens never shows; None = all."""
        self._num_token_ids = num_token_ids
        self._vocab_size = spec.vocab_size
        self._decoder = Decoder(spec, TorchWeights(weights, dtype, device))
        self._sights = {sight_of(layer.attention) for layer in spec.layers if layer.attends}
        mixers = [layer.mixer for layer in spec.layers]
        convs = [mixer for mixer in mixers if isinstance(mixer, ShortConvSpec)]
        self._convs = {conv.kernel_size: conv for conv in convs}
        self._device = device
        self._block_size = block_size

        def cache_layer(mixer: AttentionSpec | ShortConvSpec) -> KVLayer | ConvLayer:
            if isinstance(mixer, AttentionSpec):
                return KVLayer(
                    mixer,
                    num_blocks=num_blocks,
                    block_size=block_size,
                    dtype=dtype,
                    device=device,
                )
            kept = num_blocks * mixer.values_per_block(block_size)
            return ConvLayer(kept, spec.hidden_size, device)

        self.cache = [cache_layer(mixer) for mixer in mixers]

    @torch.inference_mode()
    def forward(self, inputs: StepInputs) -> Float32:
        """float32 logits [L, vocab_size], padded rows of the vocabulary included."""
        return self._logits(inputs, self._run(inputs))

    @torch.inference_mode()
    def forward_lens(self, inputs: StepInputs) -> tuple[Float32, Lens]:
        """The same step with its lens."""
        assert inputs.lens_indices is not None, "a lens looks at tokens"
        lens_indices = self._tensor(inputs.lens_indices)
        best_ids: list[NDArray[np.int64]] = []
        logprobs: list[Float32] = []

        def look(x: Tensor) -> None:
            logits = self._decoder.head(x[lens_indices]).float()
            best = logits[:, : self._num_token_ids].cpu().numpy().argmax(axis=1)
            best_ids.append(best)
            logprobs.append(logits.log_softmax(1).cpu().numpy()[np.arange(len(best)), best])

        logits = self._logits(inputs, self._run(inputs, look))
        return logits, Lens(np.stack(best_ids).astype(np.int32), np.stack(logprobs))

    @torch.inference_mode()
    def forward_hidden(self, inputs: StepInputs) -> tuple[Float32, Float32]:
        """The same step: logits [L, vocab_size] and final vectors [H, hidden_size]."""
        assert inputs.hidden_indices is not None, "final vectors are those of some tokens"
        x = self._run(inputs)
        vectors = self._decoder.final_vectors(x[self._tensor(inputs.hidden_indices)])
        hidden: Float32 = vectors.float().cpu().numpy()
        return self._logits(inputs, x), hidden

    def _logits(self, inputs: StepInputs, x: Tensor) -> Float32:
        """Of the wanted tokens, from the residuals [T, hidden]."""
        if len(inputs.logit_indices) == 0:
            return np.empty((0, self._vocab_size), np.float32)
        logits = self._decoder.head(x[self._tensor(inputs.logit_indices)])
        values: Float32 = logits.float().cpu().numpy()
        return values

    def _run(self, inputs: StepInputs, on_layer: Callable[[Tensor], None] | None = None) -> Tensor:
        """Residuals [T, hidden]; keys and values are written."""
        batch = attention_batch(inputs, self._sights, self._block_size, self._device)
        batch.convs = {
            size: conv_batch(inputs, conv, self._block_size, self._device)
            for size, conv in self._convs.items()
        }
        return self._decoder.residuals(
            self._tensor(inputs.token_ids),
            self._tensor(inputs.positions),
            batch,
            self.cache,
            self._adapter_tokens(inputs),
            on_layer,
        )

    def load_adapter(self, adapter_id: int, matrices: Sequence[AdapterMatrix]) -> None:
        self._decoder.adapters.load(adapter_id, matrices)

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees one that no row has; unknown ids are ignored."""
        self._decoder.adapters.unload(adapter_id)

    def _adapter_tokens(self, inputs: StepInputs) -> AdapterTokens:
        """The step's tokens by their rows' adapters."""
        if inputs.adapter_ids is None:
            return {}
        of_token = np.repeat(inputs.adapter_ids, np.diff(inputs.row_starts))
        return {
            int(adapter_id): torch.from_numpy(np.flatnonzero(of_token == adapter_id)).to(
                self._device
            )
            for adapter_id in np.unique(of_token)
            if adapter_id != 0
        }

    def _tensor(self, array: Int32) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)


def attention_batch(
    inputs: StepInputs, sights: set[Sight], block_size: int, device: str
) -> AttentionBatch:
    """Which keys each row reads in layers of each sight, as tensors."""
    counts = np.diff(inputs.row_starts)
    single = np.flatnonzero(counts == 1)
    return AttentionBatch(
        slots=torch.from_numpy(inputs.slots.astype(np.int64)).to(device),
        positions=torch.from_numpy(inputs.positions.astype(np.int64)).to(device),
        decode=_decode_rows(inputs, single, sights, block_size, device) if len(single) else None,
        prefills=[
            _prefill_row(inputs, int(row), sights, block_size, device)
            for row in np.flatnonzero(counts > 1)
        ],
    )


def _decode_rows(
    inputs: StepInputs,
    rows: NDArray[np.int64],
    sights: set[Sight],
    block_size: int,
    device: str,
) -> DecodeRows:
    lengths = inputs.context_lens[rows].astype(np.int64)[:, None]  # [D, 1]
    num_blocks = -(-lengths // block_size)
    tables = inputs.block_tables[rows, : num_blocks.max()].astype(np.int64)  # [D, B]
    blocks = np.where(np.arange(tables.shape[1]) < num_blocks, tables, tables[:, :1])
    places = np.arange(blocks.shape[1] * block_size)  # [C]
    stale = places >= lengths  # [D, C]

    def unseen(sight: Sight) -> Tensor:  # the token is the last one: there is nothing ahead of it
        window = sight.window
        hidden = stale if window is None else stale | (places < lengths - window)
        return torch.from_numpy(hidden).to(device)

    return DecodeRows(
        token_indices=torch.from_numpy(inputs.row_starts[rows].astype(np.int64)).to(device),
        blocks=torch.from_numpy(blocks.reshape(-1)).to(device),
        stale=torch.from_numpy(np.flatnonzero(stale)).to(device),
        unseen={sight: unseen(sight) for sight in sights},
    )


def _prefill_row(
    inputs: StepInputs, row: int, sights: set[Sight], block_size: int, device: str
) -> PrefillRow:
    start, end = int(inputs.row_starts[row]), int(inputs.row_starts[row + 1])
    length = int(inputs.context_lens[row])
    queries = np.arange(length - (end - start), length)[:, None]
    keys = np.arange(length)

    def seen(sight: Sight) -> Tensor:
        is_seen = keys <= queries if sight.is_causal else np.ones_like(keys <= queries)
        if sight.window is not None:
            is_seen &= np.abs(queries - keys) < sight.window
        return torch.from_numpy(is_seen).to(device)

    slots = _slots(inputs.block_tables[row : row + 1], length, block_size)[0]
    return PrefillRow(
        start, end, torch.from_numpy(slots).to(device), {sight: seen(sight) for sight in sights}
    )


def _slots(block_tables: Int32, length: int, block_size: int) -> NDArray[np.int64]:
    """[rows, length] slots of positions 0 .. length - 1."""
    num_blocks = -(-length // block_size)
    first = block_tables[:, :num_blocks].astype(np.int64) * block_size
    slots = first[:, :, None] + np.arange(block_size)
    return slots.reshape(len(block_tables), -1)[:, :length]
