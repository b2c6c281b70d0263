"""Attention of a batch of rows over the paged KV cache, in plain PyTorch.

Keys and values of a layer lie in `[kv_heads, slots, head_size]`. Rows with one new token are
computed together, the others one by one. Slots that hold nothing of the row are masked by
selection and their values cleared, so stale numbers, NaN too, cannot leak.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(slots=True)
class DecodeRows:
    """All rows with one new token; D rows, C longest context."""

    token_indices: Tensor  # [D] their places among the step's tokens
    blocks: Tensor  # [D * B] each row's blocks, padded with its first; C = B * block size
    unseen: Tensor  # [D, C] True where a key does not count
    stale: Tensor  # [S] places in [D * C] whose slots hold nothing of the row


@dataclass(slots=True)
class PrefillRow:
    """One row with several new tokens; n new tokens, C context."""

    start: int
    end: int
    key_slots: Tensor  # [C]
    mask: Tensor  # [n, C] True where a key is seen


@dataclass(slots=True)
class AttentionBatch:
    """The rows of one step."""

    slots: Tensor  # [T] where new keys and values go
    decode: DecodeRows | None
    prefills: list[PrefillRow]


class KVLayer:
    """Keys and values of one layer."""

    def __init__(
        self,
        *,
        num_kv_heads: int,
        num_blocks: int,
        block_size: int,
        head_size: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        shape = (num_kv_heads, num_blocks * block_size, head_size)
        self._blocked = (num_kv_heads, num_blocks, block_size * head_size)
        # Zeros from the operating system: memory is taken when a slot is first written.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """keys, values: [T, kv_heads, head_size]."""
        self.keys.index_copy_(1, slots, keys.transpose(0, 1))
        self.values.index_copy_(1, slots, values.transpose(0, 1))

    def gather(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of keys and values of these blocks, [kv_heads, blocks, block * head_size]. Whole
        blocks at once are several times faster than slot by slot."""
        keys, values = self.keys.view(self._blocked), self.values.view(self._blocked)
        return keys.index_select(1, blocks), values.index_select(1, blocks)


def paged_attention(
    queries: Tensor,  # [T, heads, head_size]
    layer: KVLayer,
    batch: AttentionBatch,
) -> Tensor:
    """[T, heads, head_size]; the new keys and values are in the cache already."""
    num_tokens, num_heads, head_size = queries.shape
    num_kv_heads = layer.keys.shape[0]
    grouped = queries.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_size)
    out = torch.empty_like(grouped)  # every token belongs to one row: all is written
    if batch.decode is not None:
        rows = batch.decode
        if not batch.prefills:
            return _decode(grouped, layer, rows).view(num_tokens, num_heads, head_size)
        out[rows.token_indices] = _decode(grouped[rows.token_indices], layer, rows)
    for row in batch.prefills:
        out[row.start : row.end] = _prefill(grouped[row.start : row.end], layer, row)
    return out.view(num_tokens, num_heads, head_size)


def _decode(queries: Tensor, layer: KVLayer, rows: DecodeRows) -> Tensor:
    """queries [D, kv, group, head] -> the same shape. Two batched products instead of
    scaled_dot_product_attention, which is 16 to 36 times slower for one query on a CPU."""
    num_rows, num_kv, _, head_size = queries.shape
    keys, values = layer.gather(rows.blocks)
    values.view(num_kv, -1, head_size).index_fill_(1, rows.stale, 0)
    keys = keys.view(num_kv, num_rows, -1, head_size)
    values = values.view(num_kv, num_rows, -1, head_size)
    scaled = queries.transpose(0, 1) * head_size**-0.5  # [kv, D, group, head]
    scores = (scaled @ keys.transpose(2, 3)).float()  # [kv, D, group, C]
    scores.masked_fill_(rows.unseen[:, None], -torch.inf)
    weights = torch.softmax(scores, -1)
    mixed = weights.to(values.dtype) @ values  # [kv, D, group, head]
    return mixed.transpose(0, 1).contiguous()


def _prefill(queries: Tensor, layer: KVLayer, row: PrefillRow) -> Tensor:
    """queries [n, kv, group, head] -> the same shape."""
    group = queries.shape[2]
    keys = layer.keys.index_select(1, row.key_slots)[:, None].expand(-1, group, -1, -1)
    values = layer.values.index_select(1, row.key_slots)[:, None].expand(-1, group, -1, -1)
    mixed = F.scaled_dot_product_attention(
        queries.permute(1, 2, 0, 3), keys, values, attn_mask=row.mask
    )  # [kv, group, n, head]
    return mixed.permute(2, 0, 1, 3)
