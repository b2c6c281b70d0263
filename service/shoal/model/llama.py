"""The Llama family (also Mistral, Qwen2): RMS norm, rotary positions, grouped heads, gated MLP."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.model.attention import AttentionBatch, KVLayer, paged_attention
from shoal.model.config import ModelConfig
from shoal.model.layers import ACTIVATIONS, Linear, Weights


@dataclass(slots=True)
class _Block:
    attention_norm: Tensor
    qkv: Linear
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class LlamaNetwork:
    """Token ids to logits over a paged KV cache. T tokens of all rows, concatenated."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._config = config
        self._embedding = weights.tensor("model.embed_tokens.weight")
        self._blocks = [self._block(weights, layer) for layer in range(config.num_layers)]
        self._norm = weights.tensor("model.norm.weight")
        self._head = self._embedding if config.tied_embeddings else weights.tensor("lm_head.weight")
        angles = torch.outer(
            torch.arange(config.max_positions, dtype=torch.float32),
            torch.tensor(config.inv_freq, dtype=torch.float32),
        )  # [positions, head / 2]
        scale = config.rope_attention_scale
        self._cos = (angles.cos() * scale).to(self._embedding)
        self._sin = (angles.sin() * scale).to(self._embedding)
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
        x = F.embedding(token_ids, self._embedding)  # [T, hidden]
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]  # [T, 1, head / 2]
        for block, layer in zip(self._blocks, cache, strict=True):
            x = x + self._attend(
                block, self._normed(x, block.attention_norm), cos, sin, batch, layer
            )
            gate, up = block.gate_up(self._normed(x, block.mlp_norm)).chunk(2, -1)
            x = x + block.down(self._activation(gate) * up)
        return F.linear(self._normed(x[logit_indices], self._norm), self._head)

    def _attend(
        self,
        block: _Block,
        x: Tensor,  # [T, hidden]
        cos: Tensor,
        sin: Tensor,
        batch: AttentionBatch,
        layer: KVLayer,
    ) -> Tensor:
        config = self._config
        qkv = block.qkv(x).view(x.shape[0], -1, config.head_size)  # [T, heads + 2 kv, head]
        num_turned = config.num_heads + config.num_kv_heads
        turned = rotate(qkv[:, :num_turned], cos, sin)  # queries and keys turn alike
        layer.write(batch.slots, turned[:, config.num_heads :], qkv[:, num_turned:])
        mixed = paged_attention(turned[:, : config.num_heads], layer, batch)
        return block.output(mixed.reshape(x.shape[0], -1))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._config.norm_eps)

    def _block(self, weights: Weights, layer: int) -> _Block:
        at = f"model.layers.{layer}"
        return _Block(
            attention_norm=weights.tensor(f"{at}.input_layernorm.weight"),
            qkv=weights.joined(*(f"{at}.self_attn.{name}_proj" for name in "qkv")),
            output=weights.joined(f"{at}.self_attn.o_proj"),
            mlp_norm=weights.tensor(f"{at}.post_attention_layernorm.weight"),
            gate_up=weights.joined(f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
            down=weights.joined(f"{at}.mlp.down_proj"),
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on half-split pairs (RoFormer, Su et al., 2021). x [T, heads, head]."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
