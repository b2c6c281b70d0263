"""The Llama network for training; parameter names are those of the Hugging Face layout.

No KV cache and no sampling: `export.py` writes a folder that the server and `transformers` run.
RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021, half-split pairs), SwiGLU
(Shazeer 2020), grouped KV heads (Ainslie et al. 2023), tied embeddings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from shoal.train.config import ModelShape
from shoal.train.twin_embedding import TwinEmbedding


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped KV heads."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads
        self.head_dim = shape.head_dim
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_proj(x).view(rows, length, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)  # [rows, heads, length, head_dim]
        groups = self.num_heads // self.num_kv_heads
        if groups > 1:  # head h reads KV head h // groups
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = attend(q, k, v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention; all [rows, heads, length, head_dim].

    In bfloat16 on the CPU it is written out as matrix products, which take half the time of
    PyTorch's own kernel there.
    """
    if q.is_cuda or not torch.is_autocast_enabled(q.device.type):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    length = q.shape[-2]
    later = torch.full((length, length), -math.inf, dtype=torch.bfloat16).triu(1)
    scores = (q * q.shape[-1] ** -0.5).to(torch.bfloat16) @ k.to(torch.bfloat16).mT
    return torch.softmax(scores + later, dim=-1).to(torch.bfloat16) @ v.to(torch.bfloat16)


class Dropout(nn.Module):
    """Zeroes a share of the elements and scales up the others.

    Eight elements take their random bytes from one int64, so the share is rounded to a 256th:
    PyTorch's own dropout costs a tenth of a training step on the CPU.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(share * 256)  # of 256
        if not 0 <= self.dropped < 256:
            raise ValueError(f"dropout of {share} is not from 0 to below 1")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropped:
            return x
        random = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        random.random_(-(2**63), None)
        mask = (random.view(torch.uint8)[: x.numel()] >= self.dropped).view(x.shape)
        return x * (mask.to(x.dtype) * (256 / (256 - self.dropped)))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.norm_eps)
        self.mlp = MLP(shape)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin))
        out: Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return out


class Trunk(nn.Module):
    """Embedding, layers and final norm: everything under the name `model.`."""

    embed_tokens: nn.Embedding | TwinEmbedding

    def __init__(self, shape: ModelShape, vocab_size: int, twins: dict[int, int]) -> None:
        super().__init__()
        if twins:
            self.embed_tokens = TwinEmbedding(vocab_size, shape.hidden_size, twins)
        else:
            self.embed_tokens = nn.Embedding(vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.norm_eps)


class Llama(nn.Module):
    """A Llama language model; `tied`: the embedding is also its output layer.

    `twins`: tokens that share a row of the embedding, see `TwinEmbedding`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        shape: ModelShape,
        vocab_size: int,
        tied: bool = True,
        twins: dict[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.vocab_size = vocab_size
        self.model = Trunk(shape, vocab_size, twins or {})
        self.lm_head = None if tied else nn.Linear(shape.hidden_size, vocab_size, bias=False)
        self.dropout = Dropout(shape.dropout)
        cos, sin = rotary_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def output_weight(self) -> Tensor:
        """[vocab_size, hidden_size]"""
        own = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return own.weight

    def initialize(self, seed: int) -> None:
        """Fill the weights: normal with standard deviation 1/sqrt(inputs), small embeddings, zero
        output projections, so that no layer adds anything yet."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            with torch.no_grad():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.zero_()
                elif "embed_tokens" in name:
                    weight.normal_(std=0.02, generator=generator)
                elif weight.ndim == 2:
                    weight.normal_(std=weight.shape[1] ** -0.5, generator=generator)

    def hidden(self, token_ids: Tensor) -> Tensor:
        """token_ids [rows, length] -> hidden states after the final norm [rows, length, hidden]."""
        length = token_ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.dropout(self.model.embed_tokens(token_ids))
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.model.norm(x)
        return out

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids [rows, length] -> logits [rows, length, vocab_size]."""
        return functional.linear(self.hidden(token_ids), self.output_weight)

    def losses(self, token_ids: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy in nats at every target that is not negative: [number of those].

        token_ids, targets [rows, length]. Logits are computed for those positions only, so padding
        costs no output layer.
        """
        has_target = targets >= 0
        hidden = self.hidden(token_ids)[has_target]
        embedding = self.model.embed_tokens
        if isinstance(embedding, TwinEmbedding) and self.lm_head is None:
            return embedding.losses(hidden, targets[has_target])
        logits = functional.linear(hidden, self.output_weight)  # [targets, vocab_size]
        return functional.cross_entropy(logits, targets[has_target], reduction="none")


def with_twins(network: Llama, twins: dict[int, int]) -> Llama:
    """The same network with a `TwinEmbedding`. Tied networks only; others come back as given."""
    if network.lm_head is not None or not twins:
        return network
    weights = network.state_dict()
    plain = weights.pop("model.embed_tokens.weight")
    shared = Llama(network.shape, network.vocab_size, twins=twins)
    embedding = shared.model.embed_tokens
    assert isinstance(embedding, TwinEmbedding)
    embedding.load_plain(plain)
    own = embedding.state_dict(prefix="model.embed_tokens.")
    shared.load_state_dict({**weights, **own})
    return shared


def rotary_tables(shape: ModelShape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [context, head_dim]; both halves of a row are equal."""
    powers = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.outer(
        torch.arange(shape.context, dtype=torch.float64), shape.rope_theta**-powers
    )
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim/2) by its position's angle. x [..., length, head_dim]"""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
