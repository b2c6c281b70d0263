"""Attention of a batch of rows over the paged KV cache, in plain PyTorch.

Keys and values of a layer lie in `[num_kv_heads, slots, head_dim]`. Rows with one new token are
computed together, the others one by one. Slots that hold nothing of the row are masked by
selection and their values cleared, so stale numbers, NaN too, cannot leak.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.spec import AttentionSpec
from shoal.model.torch.short_conv import ConvBatches


class Sight(NamedTuple):
    """Which keys a token sees; as of AttentionSpec."""

    window: int | None
    is_causal: bool


def sight_of(spec: AttentionSpec) -> Sight:
    return Sight(spec.window, spec.causal)


@dataclass(slots=True)
class DecodeRows:
    """All rows with one new token; D rows, C longest context."""

    token_indices: Tensor  # [D] their places among the step's tokens
    blocks: Tensor  # [D * B] each row's blocks, padded with its first; C = B * block size
    stale: Tensor  # [S] places in [D * C] whose slots hold nothing of the row
    unseen: Mapping[Sight, Tensor]  # [D, C] True where a key does not count


@dataclass(slots=True)
class PrefillRow:
    """One row with several new tokens; n new tokens, C context."""

    start: int
    end: int
    key_slots: Tensor  # [C]
    seen: Mapping[Sight, Tensor]  # [n, C] True where a key is seen


@dataclass(slots=True)
class AttentionBatch:
    """The rows of one step, with a mask for each distinct sight of the model's layers."""

    slots: Tensor  # [T] where new keys and values go
    positions: Tensor  # [T]
    decode: DecodeRows | None
    prefills: list[PrefillRow]
    convs: ConvBatches = field(default_factory=dict)
    """For layers with a short convolution."""


class Attends(Protocol):
    """What a layer's attention finds the keys and values of earlier tokens in."""

    def attend(
        self,
        spec: AttentionSpec,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        batch: AttentionBatch,
        alibi_slopes: Tensor | None,
    ) -> Tensor:
        """queries [T, heads, head_dim], keys and values [T, kv_heads, head_dim] of the step's
        tokens -> [T, heads, head_dim]."""
        ...


class KVLayer:
    """Keys and values of one layer."""

    def __init__(
        self,
        spec: AttentionSpec,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        shape = (spec.num_kv_heads, num_blocks * block_size, spec.head_dim)
        self._blocked = (spec.num_kv_heads, num_blocks, block_size * spec.head_dim)
        # Zeros from the operating system: memory is taken when a slot is first written.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """keys, values: [T, num_kv_heads, head_dim]."""
        self.keys.index_copy_(1, slots, keys.transpose(0, 1))
        self.values.index_copy_(1, slots, values.transpose(0, 1))

    def attend(
        self,
        spec: AttentionSpec,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        batch: AttentionBatch,
        alibi_slopes: Tensor | None,
    ) -> Tensor:
        """As `Attends`; keys and values are written first."""
        self.write(batch.slots, keys, values)
        return paged_attention(spec, queries, self, batch, alibi_slopes)

    def gather(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of keys and values of these blocks, [num_kv_heads, blocks, block * head_dim].
        Whole blocks at once are several times faster than slot by slot."""
        keys, values = self.keys.view(self._blocked), self.values.view(self._blocked)
        return keys.index_select(1, blocks), values.index_select(1, blocks)


def paged_attention(
    spec: AttentionSpec,
    queries: Tensor,  # [T, heads, head_dim]
    layer: KVLayer,
    batch: AttentionBatch,
    alibi_slopes: Tensor | None,  # [heads]
) -> Tensor:
    """[T, heads, head_dim]; the new keys and values are in the cache already."""
    num_kv_heads, group = spec.num_kv_heads, spec.num_heads // spec.num_kv_heads
    grouped = queries.reshape(len(queries), num_kv_heads, group, spec.head_dim)
    bias = None
    if alibi_slopes is not None:
        bias = _AlibiBias(alibi_slopes.view(num_kv_heads, group, 1), batch.positions)
    out = torch.empty_like(grouped)  # every token belongs to one row: all is written
    if batch.decode is not None:
        rows = batch.decode
        if not batch.prefills:
            return _decode(spec, grouped, layer, rows, bias).view_as(queries)
        out[rows.token_indices] = _decode(spec, grouped[rows.token_indices], layer, rows, bias)
    for row in batch.prefills:
        out[row.start : row.end] = _prefill(spec, grouped[row.start : row.end], layer, row, bias)
    return out.view_as(queries)


class _AlibiBias(NamedTuple):
    """Attention with linear biases (Press et al., 2021): what is added to scores."""

    slopes: Tensor  # [kv, group, 1]
    positions: Tensor  # [T]

    def of(self, tokens: Tensor | slice, num_keys: int) -> Tensor:
        """[kv, group, n, C] for n tokens of the step and the keys of positions 0 .. C - 1."""
        queries = self.positions[tokens]
        keys = torch.arange(num_keys, device=queries.device)
        return self.slopes[..., None] * (keys - queries[:, None])


def _decode(
    spec: AttentionSpec,
    queries: Tensor,
    layer: KVLayer,
    rows: DecodeRows,
    alibi: _AlibiBias | None,
) -> Tensor:
    """queries [D, kv, group, head_dim] -> the same shape. Two batched products instead of
    scaled_dot_product_attention, which is 16 to 36 times slower for one query on a CPU."""
    num_rows, num_kv, _, head_dim = queries.shape
    keys, values = layer.gather(rows.blocks)
    values.view(num_kv, -1, head_dim).index_fill_(1, rows.stale, 0)
    keys = keys.view(num_kv, num_rows, -1, head_dim)
    values = values.view(num_kv, num_rows, -1, head_dim)
    unseen = rows.unseen[sight_of(spec)][:, None]  # [D, 1, C]
    bias = None
    if alibi is not None:  # [kv, D, group, C]
        bias = alibi.of(rows.token_indices, keys.shape[2]).transpose(1, 2)
    queries = queries.transpose(0, 1)
    mixed = _attend(spec, queries, keys, values, unseen, bias)  # [kv, D, group, head_dim]
    return mixed.transpose(0, 1).contiguous()


def _prefill(
    spec: AttentionSpec,
    queries: Tensor,
    layer: KVLayer,
    row: PrefillRow,
    alibi: _AlibiBias | None,
) -> Tensor:
    """queries [n, kv, group, head_dim] -> the same shape."""
    seen = row.seen[sight_of(spec)]
    grouped = queries.permute(1, 2, 0, 3)  # [kv, group, n, head_dim]
    keys = layer.keys.index_select(1, row.key_slots)[:, None]  # [kv, 1, C, head_dim]
    values = layer.values.index_select(1, row.key_slots)[:, None]
    if spec.soft_cap is None and alibi is None:
        group = grouped.shape[1]
        keys, values = keys.expand(-1, group, -1, -1), values.expand(-1, group, -1, -1)
        mixed = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=seen, scale=spec.scale
        )
    else:
        bias = alibi.of(slice(row.start, row.end), len(row.key_slots)) if alibi else None
        mixed = _attend(spec, grouped, keys, values, ~seen, bias)
    return mixed.permute(2, 0, 1, 3)


def _attend(
    spec: AttentionSpec,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    unseen: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """queries [.., n, head_dim], keys and values [.., C, head_dim], unseen and bias [.., n, C] ->
    [.., n, head_dim]; scores and softmax in float32."""
    scores = ((queries * spec.scale) @ keys.transpose(-1, -2)).float()
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    if bias is not None:
        scores = scores + bias
    weights = torch.softmax(scores.masked_fill_(unseen, -torch.inf), -1)
    return weights.to(values.dtype) @ values
