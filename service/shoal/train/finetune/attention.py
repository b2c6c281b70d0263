"""Attention within a pack: every row's tokens see its beginning and what came before in the row.

Rows of about the same length are computed together, padded at their ends; padding is never seen by
a token, and what it computes is dropped. Probabilities are computed again for the gradient instead
of being kept, so memory grows with the tokens and not with the square of a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shoal.model.spec import AttentionSpec
from shoal.model.torch.attention import AttentionBatch
from shoal.model.torch.short_conv import ConvBatches
from shoal.train.finetune.pack import Pack, Span

_QUERIES_AT_ONCE = 256
_MAX_PADDING = 1.15
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
        lists = (np.array(tokens, np.int64), np.array(padding, np.int64), places)
        return cls(*(torch.from_numpy(each).to(device) for each in lists), tuple(buckets))


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
        mixed: Tensor = _Attention.apply(
            queries.to(values.dtype), keys.to(values.dtype), values, spec, alibi_slopes, self._layout
        )
        return mixed

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
    def forward(  # type: ignore[override]
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
            rows = _Rows(bucket, spec, slopes, padded, keys, values)
            out = _of_bucket(mixed, bucket).unflatten(2, (spec.num_kv_heads, -1))
            for piece in rows.pieces():
                part = piece.out()  # [kv, R, group, n, head_dim]
                out[:, piece.start : piece.end] = part.permute(1, 3, 0, 2, 4)
        return mixed.index_select(0, layout.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, keys, values = ctx.saved_tensors
        spec, layout = ctx.spec, ctx.layout
        padded = [x.index_select(0, layout.tokens) for x in (queries, keys, values)]
        grad = grad.index_select(0, layout.tokens)
        grad.index_fill_(0, layout.padding, 0)
        own = [torch.zeros_like(x) for x in padded]  # gradients at the places
        of_prefix = [torch.zeros_like(x) for x in (keys, values)]  # and at the tokens
        for bucket in layout.buckets:
            rows = _Rows(bucket, spec, ctx.slopes, padded, keys, values)
            grad_out = _of_bucket(grad, bucket).unflatten(2, (spec.num_kv_heads, -1))
            grad_q = _of_bucket(own[0], bucket).unflatten(2, (spec.num_kv_heads, -1))
            grad_k, grad_v = (_of_bucket(x, bucket) for x in own[1:])
            first, length = bucket.prefix
            for piece in rows.pieces():
                part = grad_out[:, piece.start : piece.end].permute(2, 0, 3, 1, 4)
                found = piece.gradients(part)
                grad_q[:, piece.start : piece.end] = found.queries.permute(1, 3, 0, 2, 4)
                seen = slice(piece.first_key, piece.end)
                grad_k[:, seen] += found.keys.permute(1, 2, 0, 3)
                grad_v[:, seen] += found.values.permute(1, 2, 0, 3)
                if length:
                    of_prefix[0][first : first + length] += found.prefix_keys.transpose(0, 1)
                    of_prefix[1][first : first + length] += found.prefix_values.transpose(0, 1)
        grad_q, grad_k, grad_v = (x.index_select(0, layout.places) for x in own)
        return grad_q, grad_k.add_(of_prefix[0]), grad_v.add_(of_prefix[1]), None, None, None


def _of_bucket(x: Tensor, bucket: Bucket) -> Tensor:
    """x [S, heads, head_dim] -> a view [R, n, heads, head_dim]."""
    size = bucket.num_rows * bucket.length
    return x[bucket.start : bucket.start + size].unflatten(0, (bucket.num_rows, bucket.length))


class _Gradients(NamedTuple):
    queries: Tensor  # [kv, R, group, n, head_dim]
    keys: Tensor  # [kv, R, C, head_dim]
    values: Tensor  # [kv, R, C, head_dim]
    prefix_keys: Tensor  # [kv, P, head_dim]
    prefix_values: Tensor  # [kv, P, head_dim]


class _Rows:
    """The rows of a bucket, cut into pieces of their queries."""

    def __init__(
        self,
        bucket: Bucket,
        spec: AttentionSpec,
        slopes: Tensor | None,
        padded: list[Tensor],
        keys: Tensor,
        values: Tensor,
    ) -> None:
        self._bucket, self._spec, self._slopes = bucket, spec, slopes
        queries, own_keys, own_values = (_of_bucket(x, bucket) for x in padded)
        grouped = queries.unflatten(2, (spec.num_kv_heads, -1))
        self._queries = grouped.permute(2, 0, 3, 1, 4)  # [kv, R, group, n, head_dim]
        self._keys = own_keys.permute(2, 0, 1, 3)  # [kv, R, n, head_dim]
        self._values = own_values.permute(2, 0, 1, 3)
        first, length = bucket.prefix
        self._prefix_keys = keys[first : first + length].transpose(0, 1)  # [kv, P, head_dim]
        self._prefix_values = values[first : first + length].transpose(0, 1)

    def pieces(self) -> Iterator["_Piece"]:
        window = self._spec.window
        for start in range(0, self._bucket.length, _QUERIES_AT_ONCE):
            end = min(start + _QUERIES_AT_ONCE, self._bucket.length)
            first_key = 0 if window is None else max(0, start - window + 1)
            yield _Piece(
                self._spec,
                start,
                end,
                first_key,
                self._queries[..., start:end, :],
                self._keys[:, :, first_key:end],
                self._values[:, :, first_key:end],
                self._prefix_keys,
                self._prefix_values,
                self._bias(start, end, first_key),
            )

    def _bias(self, start: int, end: int, first_key: int) -> Tensor:
        """What is added to scores [kv or 1, 1, group or 1, n, P + C]: minus infinity where a key is
        not seen, and the linear bias."""
        spec, length = self._spec, self._bucket.prefix.length
        wide = torch.promote_types(self._keys.dtype, torch.float32)
        device = self._keys.device
        queries = torch.arange(start, end, device=device)[:, None]
        keys = torch.cat(
            (torch.arange(-length, 0, device=device), torch.arange(first_key, end, device=device))
        )
        distance = queries - keys  # [n, P + C]
        unseen = distance < 0
        if spec.window is not None:
            unseen |= distance >= spec.window
        bias = torch.zeros(distance.shape, dtype=wide, device=device)
        bias = bias.masked_fill_(unseen, -torch.inf)[None, None, None]
        if self._slopes is None:
            return bias
        slopes = self._slopes.to(wide).view(spec.num_kv_heads, 1, -1, 1, 1)
        return bias - slopes * distance


class _Piece(NamedTuple):
    """n queries of each of R rows; P keys of the beginning and C of the row."""

    spec: AttentionSpec
    start: int
    end: int
    first_key: int
    queries: Tensor  # [kv, R, group, n, head_dim]
    keys: Tensor  # [kv, R, C, head_dim]
    values: Tensor  # [kv, R, C, head_dim]
    prefix_keys: Tensor  # [kv, P, head_dim]
    prefix_values: Tensor  # [kv, P, head_dim]
    bias: Tensor

    def out(self) -> Tensor:
        """[kv, R, group, n, head_dim]"""
        weights, _ = self._weights()
        num_prefix = self.prefix_keys.shape[1]
        weights = weights.to(self.values.dtype)
        mixed = weights[..., num_prefix:].flatten(2, 3) @ self.values
        if num_prefix:
            mixed += (weights[..., :num_prefix].flatten(1, 3) @ self.prefix_values).view_as(mixed)
        return mixed.view(self.queries.shape)

    def gradients(self, grad: Tensor) -> _Gradients:
        """grad: of `out`."""
        weights, slope = self._weights()
        num_prefix, dtype = self.prefix_keys.shape[1], self.values.dtype
        shape, grad = grad.shape, grad.flatten(2, 3)  # [kv, R, group * n, head_dim]
        grad_scores = self._both(
            grad.flatten(1, 2) @ self.prefix_values.mT, grad @ self.values.mT, weights.dtype
        )
        # Of the softmax, then of the cap and the scale.
        grad_scores -= (grad_scores * weights).sum(-1, keepdim=True)
        grad_scores *= weights
        if slope is not None:
            grad_scores *= slope
        scaled = grad_scores.mul_(self.spec.scale).to(dtype)
        weights = weights.to(dtype)
        queries = self.queries.flatten(2, 3)
        own = scaled[..., num_prefix:].flatten(2, 3)
        grad_queries = own @ self.keys
        of_prefix = scaled[..., :num_prefix].flatten(1, 3)  # [kv, R * group * n, P]
        if num_prefix:
            grad_queries += (of_prefix @ self.prefix_keys).view_as(grad_queries)
        return _Gradients(
            grad_queries.view(shape),
            own.mT @ queries,
            weights[..., num_prefix:].flatten(2, 3).mT @ grad,
            of_prefix.mT @ queries.flatten(1, 2),
            weights[..., :num_prefix].flatten(1, 3).mT @ grad.flatten(1, 2),
        )

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """Probabilities [kv, R, group, n, P + C], and the slope of the cap at each score."""
        queries = self.queries.flatten(2, 3)
        wide = torch.promote_types(queries.dtype, torch.float32)
        scores = self._both(
            queries.flatten(1, 2) @ self.prefix_keys.mT, queries @ self.keys.mT, wide
        )
        scores *= self.spec.scale
        slope = None
        if self.spec.soft_cap is not None:
            turned = torch.tanh(scores / self.spec.soft_cap)
            scores, slope = self.spec.soft_cap * turned, 1 - turned.square()
        return torch.softmax(scores + self.bias, -1), slope

    def _both(self, of_prefix: Tensor, own: Tensor, dtype: torch.dtype) -> Tensor:
        """[kv, R * group * n, P] and [kv, R, group * n, C] as [kv, R, group, n, P + C]."""
        shape = self.queries.shape[:-1]
        own = own.view(*shape, own.shape[-1])
        if not of_prefix.shape[-1]:
            return own.to(dtype)
        return torch.cat((of_prefix.view(*shape, of_prefix.shape[-1]), own), -1).to(dtype)
