"""A decoder that executes any DecoderSpec: token ids to residuals over a paged KV cache, those to
logits or final vectors.

Reads top to bottom; the parts are in `layers.py`, the cache in `attention.py`. Knows no family.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, RotarySpec
from shoal.model.torch.adapters import AdapterTokens
from shoal.model.torch.attention import Attends, AttentionBatch
from shoal.model.torch.experts import make_mlp
from shoal.model.torch.layers import Linear, TorchWeights, over_all_heads, rotate
from shoal.model.torch.short_conv import Convolves, ShortConv

Rotations = Mapping[RotarySpec, tuple[Tensor, Tensor]]
"""Cosines and sines [T, 1, pairs] of the step's positions."""


class Decoder:
    """T tokens of all rows, concatenated."""

    def __init__(self, spec: DecoderSpec, weights: TorchWeights) -> None:
        self.adapters = weights.adapters
        self._spec = spec
        embedding = weights.tensor("embedding")  # [vocab, embedding_size or hidden]
        self._embedding = weights.table(embedding)
        self._embedding_projection = weights.optional("embedding_projection.weight")
        self._embedding_norm = weights.norm(spec.embedding_norm, "embedding_norm")
        self._token_types = weights.optional("token_type_embedding")  # [types, hidden]
        positions = weights.optional("position_embedding")  # [positions, hidden]
        self._positions = None if positions is None else weights.table(positions)
        self.layers = [
            DecoderLayer(layer, weights, index) for index, layer in enumerate(spec.layers)
        ]
        self._final_norm = weights.norm(spec.final_norm, "final_norm")
        self._head_projection = weights.optional("head_projection.weight")
        self.head_matrix: Linear | None = None
        if spec.has_head:
            head = embedding if spec.tied_head else weights.tensor("head.weight")
            self.head_matrix = Linear(head, weights.optional("head.bias"))
        rotary_specs = {layer.attention.rotary for layer in spec.layers if layer.attends}
        self._rotary = weights.rotary(
            [rotary for rotary in rotary_specs if rotary is not None],
            spec.max_position_embeddings,
        )

    def residuals(
        self,
        token_ids: Tensor,  # [T]
        positions: Tensor,  # [T]
        batch: AttentionBatch,
        cache: Sequence[Attends | Convolves],
        adapter_tokens: AdapterTokens | None = None,
        on_layer: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """What the last layer leaves [T, hidden]; keys and values of all tokens are written.
        `on_layer` is given the residual [T, hidden] that each layer leaves."""
        self.adapters.tokens = adapter_tokens or {}
        x = self.embed(token_ids, positions)
        rotations = self.rotations(positions)
        for layer, cache_layer in zip(self.layers, cache, strict=True):
            x = layer(x, rotations, batch, cache_layer)
            if on_layer is not None:
                on_layer(x)
        return x

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """The residual before the first layer [T, hidden]."""
        spec = self._spec
        x = self._embedding(token_ids)  # [T, embedding_size or hidden]
        if self._embedding_projection is not None:
            x = F.linear(x, self._embedding_projection)  # [T, hidden]
        if spec.embedding_multiplier != 1:
            x = x * spec.embedding_multiplier
        if self._token_types is not None:
            x = x + self._token_types[0]
        if self._positions is not None:
            x = x + self._positions(positions)
        return self._embedding_norm(x)

    def rotations(self, positions: Tensor) -> Rotations:
        return self._rotary.at(positions)

    def final_vectors(self, x: Tensor) -> Tensor:
        """Residuals [n, hidden] behind the last norm, where there is one."""
        return self._final_norm(x)

    def head_input(self, x: Tensor) -> Tensor:
        """What the head's matrix is multiplied with, of residuals [n, hidden]."""
        x = self._final_norm(x)
        return x if self._head_projection is None else F.linear(x, self._head_projection)

    def head(self, x: Tensor) -> Tensor:
        """Logits [n, vocab] of residuals [n, hidden]. Raises ValueError where there is no head."""
        spec = self._spec
        if self.head_matrix is None:
            raise ValueError("the model has no head, so no token has logits")
        logits = self.head_matrix(self.head_input(x))
        if spec.logit_multiplier != 1:
            logits = logits * spec.logit_multiplier
        if spec.logit_soft_cap is not None:
            logits = spec.logit_soft_cap * torch.tanh(logits / spec.logit_soft_cap)
        return logits


class DecoderLayer:
    """One layer around the residual stream x [T, hidden]."""

    def __init__(self, spec: LayerSpec, weights: TorchWeights, index: int) -> None:
        self._is_parallel = spec.parallel
        self._norms_sum = spec.post_norm_of == "sum"
        self._residual_multiplier = spec.residual_multiplier
        self._shares_norm = spec.parallel and spec.mlp_norm is None
        self._mixer = (
            _Attention(spec.mixer, weights, index)
            if isinstance(spec.mixer, AttentionSpec)
            else ShortConv(spec.mixer, weights, index)
        )
        self._mlp = make_mlp(spec.mlp, weights, index)
        self._attention_norm = weights.norm(spec.attention_norm, "attention_norm", index)
        self._mlp_norm = weights.norm(spec.mlp_norm, "mlp_norm", index)
        post_norm = spec.attention_post_norm
        self._attention_post_norm = weights.norm(post_norm, "attention_post_norm", index)
        self._mlp_post_norm = weights.norm(spec.mlp_post_norm, "mlp_post_norm", index)

    def __call__(
        self,
        x: Tensor,
        rotations: Rotations,
        batch: AttentionBatch,
        cache: Attends | Convolves,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """`wanted` [n]: tokens whose residual is returned [n, hidden]; None = all."""
        attention_input = self._attention_norm(x)
        mixed = self._mix(attention_input, rotations, batch, cache, wanted)
        if wanted is not None:
            x, attention_input = x[wanted], attention_input[wanted]
        if self._norms_sum:
            x = self._attention_post_norm(x + self._scaled(mixed))
            return self._mlp_post_norm(x + self._scaled(self._mlp(self._mlp_norm(x))))
        mixed = self._scaled(self._attention_post_norm(mixed))
        if not self._is_parallel:
            x = x + mixed
            return x + self._scaled(self._mlp_post_norm(self._mlp(self._mlp_norm(x))))
        mlp_input = attention_input if self._shares_norm else self._mlp_norm(x)
        return x + mixed + self._scaled(self._mlp_post_norm(self._mlp(mlp_input)))

    def _scaled(self, branch: Tensor) -> Tensor:
        return branch if self._residual_multiplier == 1 else branch * self._residual_multiplier

    def _mix(
        self,
        x: Tensor,
        rotations: Rotations,
        batch: AttentionBatch,
        cache: Attends | Convolves,
        wanted: Tensor | None,
    ) -> Tensor:
        if isinstance(self._mixer, ShortConv):
            mixed = self._mixer(x, batch.convs, cast(Convolves, cache))
            return mixed if wanted is None else mixed[wanted]
        return self._mixer(x, rotations, batch, cast(Attends, cache), wanted)


class _Attention:
    """Queries, keys and values of x [T, hidden], attention over the cache, output [T, hidden]."""

    def __init__(self, spec: AttentionSpec, weights: TorchWeights, index: int) -> None:
        self._spec = spec
        self._qkv = weights.linear(index, "q", "k", "v")
        self._output = weights.linear(index, "output")
        norm = spec.qk_norm.norm if spec.qk_norm else None
        self._q_norm = weights.norm(norm, "q_norm", index)
        self._k_norm = weights.norm(norm, "k_norm", index)
        if spec.qk_norm is not None and spec.qk_norm.over == "all":
            self._q_norm = over_all_heads(self._q_norm)
            self._k_norm = over_all_heads(self._k_norm)
        self._alibi_slopes = weights.constant(spec.alibi_slopes)
        if spec.qk_norm is not None and spec.qk_norm.weight_per_head:
            self._q_norm = weights.norm_per_head(spec, "q_norm", index)
            self._k_norm = weights.norm_per_head(spec, "k_norm", index)

    def __call__(
        self,
        x: Tensor,
        rotations: Rotations,
        batch: AttentionBatch,
        cache: Attends,
        wanted: Tensor | None,
    ) -> Tensor:
        spec = self._spec
        qkv = self._qkv(x).view(len(x), -1, spec.head_dim)  # [T, heads + 2 kv, head_dim]
        num_heads, num_kv_heads = spec.num_heads, spec.num_kv_heads
        sizes = (num_heads + num_kv_heads, num_kv_heads)
        qk, values = torch.split_with_sizes(qkv, sizes, 1)
        values = self._clipped(values)
        if not spec.clip_after_norm:
            qk = self._clipped(qk)
        norms_after_rotary = spec.qk_norm is not None and spec.qk_norm.after_rotary
        if not norms_after_rotary:
            qk = self._norm_heads(qk)
        if spec.rotary is not None:
            qk = rotate(qk, *rotations[spec.rotary], interleaved=spec.rotary.interleaved)
        if norms_after_rotary:
            qk = self._norm_heads(qk)
        queries, keys = torch.split_with_sizes(qk, (num_heads, num_kv_heads), 1)
        mixed = cache.attend(spec, queries, keys, values, batch, self._alibi_slopes)
        if wanted is not None:
            mixed = mixed[wanted]
        return self._output(mixed.reshape(len(mixed), -1))

    def _norm_heads(self, qk: Tensor) -> Tensor:
        """Queries and keys [T, heads + kv, head_dim] behind their norm, where they have one."""
        num_heads = self._spec.num_heads
        if self._spec.qk_norm is not None:
            qk = torch.cat((self._q_norm(qk[:, :num_heads]), self._k_norm(qk[:, num_heads:])), 1)
        return self._clipped(qk) if self._spec.clip_after_norm else qk

    def _clipped(self, x: Tensor) -> Tensor:
        limit = self._spec.clip_qkv
        return x if limit is None else x.clamp(-limit, limit)
