"""The GPT-2 family: layer norm, learned positions, plain MLP, weights stored [in, out]."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from shoal.model.attention import AttentionBatch, KVLayer, paged_attention
from shoal.model.config import ModelConfig
from shoal.model.layers import ACTIVATIONS, Linear, Weights


@dataclass(slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(slots=True)
class _Block:
    attention_norm: _Norm
    qkv: Linear
    output: Linear
    mlp_norm: _Norm
    up: Linear
    down: Linear


class Gpt2Network:
    """Token ids to logits over a paged KV cache. T tokens of all rows, concatenated."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._config = config
        self._embedding = weights.tensor("transformer.wte.weight")
        self._positions = weights.tensor("transformer.wpe.weight")
        self._blocks = [self._block(weights, layer) for layer in range(config.num_layers)]
        self._norm = self._norm_at(weights, "transformer.ln_f")
        self._head = self._embedding if config.tied_embeddings else weights.tensor("lm_head.weight")
        self._activation = ACTIVATIONS[config.activation]

    def forward(
        self,
        token_ids: Tensor,  # [T]
        positions: Tensor,  # [T]
        batch: AttentionBatch,
        cache: list[KVLayer],
        logit_indices: Tensor,  # [L]
    ) -> Tensor:
        """Logits [L, vocab] of the wanted tokens; keys and values of all are written."""
        x = F.embedding(token_ids, self._embedding) + F.embedding(positions, self._positions)
        for block, layer in zip(self._blocks, cache, strict=True):
            qkv = block.qkv(block.attention_norm(x))  # [T, 3 hidden]
            shape = (x.shape[0], 3, self._config.num_heads, self._config.head_size)
            queries, keys, values = qkv.view(shape).unbind(1)
            layer.write(batch.slots, keys, values)
            mixed = paged_attention(queries, layer, batch)
            x = x + block.output(mixed.reshape(x.shape))
            x = x + block.down(self._activation(block.up(block.mlp_norm(x))))
        return F.linear(self._norm(x[logit_indices]), self._head)

    def _block(self, weights: Weights, layer: int) -> _Block:
        at = f"transformer.h.{layer}"
        return _Block(
            attention_norm=self._norm_at(weights, f"{at}.ln_1"),
            qkv=weights.joined(f"{at}.attn.c_attn", transposed=True),
            output=weights.joined(f"{at}.attn.c_proj", transposed=True),
            mlp_norm=self._norm_at(weights, f"{at}.ln_2"),
            up=weights.joined(f"{at}.mlp.c_fc", transposed=True),
            down=weights.joined(f"{at}.mlp.c_proj", transposed=True),
        )

    def _norm_at(self, weights: Weights, name: str) -> _Norm:
        return _Norm(
            weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"), self._config.norm_eps
        )
