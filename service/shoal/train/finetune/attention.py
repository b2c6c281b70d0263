"""Attention within a pack: every row's tokens see its beginning and what came before in the row.

Rows of about the same length are computed together, padded at their ends; padding is never seen by
a token, and what it computes is dropped. Probabilities are computed again for the gradient instead
of being kept, so memory grows with the tokens and not with the square of a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shoal.model.spec import AttentionSpec
from shoal.model.torch.attention import AttentionBatch
from shoal.model.torch.short_conv import ConvBatches
from shoal.train.finetune.pack import Pack, Span
from shoal.train.finetune.products import apply

_QUERIES_AT_ONCE = 256
_MAX_PADDING = 2.0
"""Padded tokens of rows computed together are at most so many times their tokens."""


class Bucket(NamedTuple):
    """R rows, padded to n tokens each, that look back at the same beginning."""

    start: int  # first of their R * n places
    num_rows: int
    length: int
    prefix: Span


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a pack stand among the padded rows: S places for T tokens."""

    tokens: Tensor  # [S] token at each place; of padding any
    padding: Tensor  # [number of padded places]
    places: Tensor  # [T] place of each token
    buckets: tuple[Bucket, ...]
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    """By bucket, first query and window, as they were asked for."""

    @classmethod
    def of(cls, pack: Pack, device: str) -> "Layout":
        buckets: list[Bucket] = []
        tokens: list[int] = []
        padding: list[int] = []
        places = np.empty(len(pack.token_ids), np.int64)
        for prefix, rows in _alike(pack):
            length = max(row.length for row in rows)
            buckets.append(Bucket(len(tokens), len(rows), length, prefix))
            for row in rows:
                place = len(tokens)
                places[row.start : row.start + row.length] = np.arange(place, place + row.length)
                tokens += range(row.start, row.start + row.length)
                missing = length - row.length
                padding += range(len(tokens), len(tokens) + missing)
                tokens += [row.start] * missing
        return cls(
            torch.tensor(tokens, device=device),
            torch.tensor(padding, dtype=torch.long, device=device),
            torch.from_numpy(places).to(device),
            tuple(buckets),
        )


def _alike(pack: Pack) -> Iterator[tuple[Span, list[Span]]]:
    """(beginning, rows computed together); the beginnings first, rows without a beginning."""
    nothing = Span(0, 0)
    for group in pack.groups:
        if group.prefix.length:
            yield nothing, [group.prefix]
        together: list[Span] = []
        num_tokens = 0
        for row in sorted(group.rows, key=lambda row: -row.length):
            longest = together[0].length if together else row.length
            padded = longest * (len(together) + 1)
            too_long = longest > _QUERIES_AT_ONCE
            if together and (too_long or padded > _MAX_PADDING * (num_tokens + row.length)):
                yield group.prefix, together
                together, num_tokens = [], 0
            together.append(row)
            num_tokens += row.length
        yield group.prefix, together


class PackCache:
    """What layers find earlier tokens of their row in: the pack itself."""

    def __init__(self, pack: Pack, device: str) -> None:
        self._pack = pack
        self._device = device
        self._layout = Layout.of(pack, device)
        self._sources: dict[int, Tensor] = {}

    def attend(
        self,
        spec: AttentionSpec,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        batch: AttentionBatch,
        alibi_slopes: Tensor | None,
    ) -> Tensor:
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        values = values.contiguous()  # else the product that they are a part of is kept
        return apply(_Attention, queries, keys, values, spec, alibi_slopes, self._layout)

    def convolve(self, values: Tensor, taps: Tensor, batches: ConvBatches) -> Tensor:
        """Before a row's first token lies zero."""
        size = taps.shape[1]
        if size not in self._sources:
            self._sources[size] = torch.from_numpy(_conv_sources(self._pack, size)).to(self._device)
        known = torch.cat((values, values.new_zeros(1, values.shape[1])))
        sources = self._sources[size]
        mixed = taps[:, 0] * known[sources[0]]
        for tap in range(1, size):
            mixed = mixed + taps[:, tap] * known[sources[tap]]
        return mixed


def _conv_sources(pack: Pack, size: int) -> Any:
    """[size, T]: the token that each tap multiplies, oldest first; T where the row has none."""
    num_tokens = len(pack.token_ids)
    sources = np.full((size, num_tokens), num_tokens, np.int64)
    for group in pack.groups:
        prefix = np.arange(group.prefix.start, sum(group.prefix))
        for row in (group.prefix, *group.rows):
            own = np.arange(row.start, sum(row))
            before = prefix if row is not group.prefix else prefix[:0]
            seen = np.concatenate((np.full(size - 1, num_tokens), before, own))
            for tap in range(size):
                first = len(before) + tap
                sources[tap, own] = seen[first : first + len(own)]
    return sources


class _Attention(torch.autograd.Function):
    """queries [T, heads, head_dim], keys and values [T, kv_heads, head_dim] of one dtype ->
    [T, heads, head_dim]. Scores and softmax in float32 or wider."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        spec: AttentionSpec,
        slopes: Tensor | None,
        layout: Layout,
    ) -> Tensor:
        ctx.save_for_backward(queries, keys, values)
        ctx.spec, ctx.slopes, ctx.layout = spec, slopes, layout
        padded = [x.index_select(0, layout.tokens) for x in (queries, keys, values)]
        mixed = torch.empty_like(padded[0])
        for bucket in layout.buckets:
            rows = _Rows(bucket, spec, slopes, layout, padded, keys, values)
            out = _grouped(_of_bucket(mixed, bucket), spec)
            for piece in rows.pieces():
                part = piece.out()  # [kv, R, group, n, head_dim]
                out[:, piece.start : piece.end] = part.permute(1, 3, 0, 2, 4)
        return mixed.index_select(0, layout.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values = ctx.saved_tensors
        spec, layout = ctx.spec, ctx.layout
        padded = [x.index_select(0, layout.tokens) for x in (queries, keys, values)]
        grad = grad.index_select(0, layout.tokens)
        grad.index_fill_(0, layout.padding, 0)
        own = [torch.zeros_like(x) for x in padded]  # gradients at the places
        of_prefix = [torch.zeros_like(x) for x in (keys, values)]  # and at the tokens
        for bucket in layout.buckets:
            rows = _Rows(bucket, spec, ctx.slopes, layout, padded, keys, values)
            grad_out = _grouped(_of_bucket(grad, bucket), spec)
            grad_q = _grouped(_of_bucket(own[0], bucket), spec)
            both = [torch.zeros_like(x) for x in (rows.keys, rows.values)]
            for piece in rows.pieces():
                part = grad_out[:, piece.start : piece.end].permute(2, 0, 3, 1, 4)
                of_queries, *of_both = piece.gradients(part)
                grad_q[:, piece.start : piece.end] = of_queries.permute(1, 3, 0, 2, 4)
                for total, found in zip(both, of_both, strict=True):
                    total[:, :, piece.seen] += found
            prefix = slice(bucket.prefix.start, sum(bucket.prefix))
            for total, at_places, at_tokens in zip(both, own[1:], of_prefix, strict=True):
                before, behind = total.split_with_sizes((bucket.prefix.length, bucket.length), 2)
                _of_bucket(at_places, bucket).copy_(behind.permute(1, 2, 0, 3))
                if bucket.prefix.length:
                    at_tokens[prefix] += before.sum(1).transpose(0, 1)
        grad_q, grad_k, grad_v = (x.index_select(0, layout.places) for x in own)
        return grad_q, grad_k.add_(of_prefix[0]), grad_v.add_(of_prefix[1]), None, None, None


def _of_bucket(x: Tensor, bucket: Bucket) -> Tensor:
    """x [S, heads, head_dim] -> a view [R, n, heads, head_dim]."""
    size = bucket.num_rows * bucket.length
    rows = x[bucket.start : bucket.start + size]
    return rows.view(bucket.num_rows, bucket.length, *x.shape[1:])


def _grouped(x: Tensor, spec: AttentionSpec) -> Tensor:
    """x [R, n, heads, head_dim] -> a view [R, n, kv, group, head_dim]."""
    return x.view(*x.shape[:2], spec.num_kv_heads, -1, spec.head_dim)


class _Rows:
    """The rows of a bucket, their beginning before each, cut into pieces of their queries."""

    def __init__(
        self,
        bucket: Bucket,
        spec: AttentionSpec,
        slopes: Tensor | None,
        layout: Layout,
        padded: list[Tensor],
        keys: Tensor,
        values: Tensor,
    ) -> None:
        self._bucket, self._spec, self._slopes, self._layout = bucket, spec, slopes, layout
        queries, own_keys, own_values = (_of_bucket(x, bucket) for x in padded)
        # [kv, R, group, n, head_dim]
        self._queries = _grouped(queries, spec).permute(2, 0, 3, 1, 4).contiguous()
        self.keys = self._with_prefix(keys, own_keys)
        self.values = self._with_prefix(values, own_values)

    def _with_prefix(self, x: Tensor, own: Tensor) -> Tensor:
        """x [T, kv, head_dim], own [R, n, kv, head_dim] -> [kv, R, P + n, head_dim]."""
        before = x[self._bucket.prefix.start : sum(self._bucket.prefix)]
        before = before.expand(self._bucket.num_rows, *before.shape)
        return torch.cat((before, own), 1).permute(2, 0, 1, 3).contiguous()

    def pieces(self) -> Iterator["_Piece"]:
        window, prefix = self._spec.window, self._bucket.prefix.length
        for start in range(0, self._bucket.length, _QUERIES_AT_ONCE):
            end = min(start + _QUERIES_AT_ONCE, self._bucket.length)
            first = 0 if window is None else max(0, prefix + start - window + 1)
            seen = slice(first, prefix + end)
            yield _Piece(
                self._spec,
                start,
                end,
                seen,
                self._queries[..., start:end, :].flatten(2, 3),
                self.keys[:, :, seen],
                self.values[:, :, seen],
                self._bias(start, end, seen),
            )

    def _bias(self, start: int, end: int, seen: slice) -> Tensor:
        """What is added to scores [kv or 1, 1, group or 1, n, C]: minus infinity where a key is not
        seen, and the linear bias."""
        spec, masks, device = self._spec, self._layout.masks, self.keys.device
        wide = torch.promote_types(self.keys.dtype, torch.float32)
        prefix = self._bucket.prefix.length
        queries = torch.arange(prefix + start, prefix + end, device=device)[:, None]
        keys = torch.arange(seen.start, seen.stop, device=device)
        key = (self._bucket.start, start, spec.window)
        if key not in masks:
            unseen = keys > queries
            if spec.window is not None:
                unseen |= queries - keys >= spec.window
            mask = torch.zeros(unseen.shape, dtype=wide, device=device)
            masks[key] = mask.masked_fill_(unseen, -torch.inf)[None, None, None]
        if self._slopes is None:
            return masks[key]
        slopes = self._slopes.to(wide).view(spec.num_kv_heads, 1, -1, 1, 1)
        return masks[key] + slopes * (keys - queries)


class _Piece(NamedTuple):
    """n queries of each of R rows, and the C keys that some of them see."""

    spec: AttentionSpec
    start: int
    end: int
    seen: slice  # of the beginning and the row
    queries: Tensor  # [kv, R, group * n, head_dim]
    keys: Tensor  # [kv, R, C, head_dim]
    values: Tensor  # [kv, R, C, head_dim]
    bias: Tensor

    def out(self) -> Tensor:
        """[kv, R, group, n, head_dim]"""
        weights, _ = self._weights()
        return self._by_group(weights.to(self.values.dtype) @ self.values)

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """grad: of `out`. Of queries [kv, R, group, n, head_dim], of keys and of values
        [kv, R, C, head_dim]."""
        weights, slope = self._weights()
        grad, dtype = grad.flatten(2, 3), self.values.dtype
        of_weights = (grad @ self.values.mT).to(weights.dtype)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        if slope is not None:
            of_scores *= slope
        of_scores = of_scores.mul_(self.spec.scale).to(dtype)
        return (
            self._by_group(of_scores @ self.keys),
            of_scores.mT @ self.queries,
            weights.to(dtype).mT @ grad,
        )

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """Probabilities [kv, R, group * n, C], and the slope of the cap at each score."""
        wide = torch.promote_types(self.keys.dtype, torch.float32)
        scores = (self.queries @ self.keys.mT).to(wide).mul_(self.spec.scale)
        slope = None
        if self.spec.soft_cap is not None:
            turned = torch.tanh(scores / self.spec.soft_cap)
            scores, slope = self.spec.soft_cap * turned, 1 - turned.square()
        self._by_group(scores).add_(self.bias)
        return torch.softmax(scores, -1), slope

    def _by_group(self, x: Tensor) -> Tensor:
        """[kv, R, group * n, size] as [kv, R, group, n, size]."""
        return x.view(*x.shape[:2], -1, self.end - self.start, x.shape[-1])
