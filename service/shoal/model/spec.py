"""What a decoder is made of: sizes, one description per layer, the head. Numbers only.

A family (`architectures/<family>.py`) reads a config into a `DecoderSpec`; the PyTorch decoder and
the native kernels execute it. Nothing here knows files, torch or a family's name. Every default
means what a plain Llama does, so a family names only what it does differently.

A weight is named by its role, not by the family's tensor name: `expected_weights` lists every role
of a spec with its shape.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
NormKind = Literal["rms", "layer"]


@dataclass(frozen=True, slots=True)
class NormSpec:
    """RMS norm (Zhang and Sennrich, 2019) or layer norm (Ba et al., 2016) over one vector."""

    kind: NormKind
    eps: float
    bias: bool = False
    """Is a vector added after scaling?"""
    weight_offset: float = 0.0
    """The scale is this plus the weight: 1 for Gemma."""


@dataclass(frozen=True, slots=True)
class RotarySpec:
    """Rotary positions (Su et al., 2021) of queries and keys."""

    inv_freq: tuple[float, ...]
    """Radians per position of each rotated pair of channels, scaling included. The first
    `2 * len(inv_freq)` channels of a head are rotated, channel i with channel
    `i + len(inv_freq)`; the others stay as they are."""
    magnitude: float = 1.0
    """Factor on cosines and sines (yarn, longrope)."""


@dataclass(frozen=True, slots=True)
class QKNormSpec:
    """A norm of queries and keys, before rotation, with a weight of its own each."""

    norm: NormSpec
    """Over each head by itself; the weight [head_dim] is shared by the heads."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Causal attention with grouped heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Scores are multiplied by it; `head_dim ** -0.5` in most families."""
    qkv_bias: bool = False
    output_bias: bool = False
    rotary: RotarySpec | None = None
    qk_norm: QKNormSpec | None = None
    window: int | None = None
    """A token sees only so many positions back, itself included."""
    soft_cap: float | None = None
    """Scores become cap * tanh(score / cap) (Gemma 2)."""

    @property
    def query_size(self) -> int:
        """Channels of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Channels of all key heads; as many of all value heads."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """down(act(gate(x)) * up(x)) where gated, else down(act(up(x)))."""

    intermediate_size: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    """On all of its linear layers."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Attention and MLP around one residual stream x.

    One after the other:  x += post(attention(norm(x)));  x += post(mlp(norm(x)))
    Parallel:             x += post(attention(norm(x))) + post(mlp(norm(x)))
    """

    attention: AttentionSpec
    mlp: MlpSpec
    attention_norm: NormSpec | None
    """Before attention; None = none."""
    mlp_norm: NormSpec | None
    """Before the MLP. None in a parallel layer: the MLP reads what attention reads (Phi)."""
    attention_post_norm: NormSpec | None = None
    """Of the branch's output, before it is added (Gemma 2 and 3, OLMo 2)."""
    mlp_post_norm: NormSpec | None = None
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only network."""

    vocab_size: int
    """Rows of the embedding."""
    hidden_size: int
    max_position_embeddings: int
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec
    tied_head: bool
    """Is the embedding also the head?"""
    head_bias: bool = False
    learned_positions: bool = False
    """Is a row of a table added to the embedding for each position (GPT-2)?"""
    embedding_multiplier: float = 1.0
    logit_soft_cap: float | None = None
    """Logits become cap * tanh(logit / cap) (Gemma 2)."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def kv_numbers_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return sum(2 * layer.attention.kv_size for layer in self.layers)


class Role(NamedTuple):
    """What a weight is for."""

    name: str
    layer: int | None = None
    """None for what is not part of a layer."""

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layers.{self.layer}.{self.name}"


def expected_weights(spec: DecoderSpec) -> dict[Role, tuple[int, ...]]:
    """Every role of the network with its shape; matrices are [out, in].

    Not of a layer: `embedding`, `position_embedding`, `final_norm.weight` (`.bias`), `head.weight`
    (absent where tied), `head.bias`. Of a layer: `attention_norm.*`, `q.*`, `k.*`, `v.*`,
    `q_norm.*`, `k_norm.*`, `output.*`, `attention_post_norm.*`, `mlp_norm.*`, `gate.*`, `up.*`,
    `down.*`, `mlp_post_norm.*`, where * is weight or bias.
    """
    hidden, vocab = spec.hidden_size, spec.vocab_size
    shapes: dict[Role, tuple[int, ...]] = {Role("embedding"): (vocab, hidden)}
    if spec.learned_positions:
        shapes[Role("position_embedding")] = (spec.max_position_embeddings, hidden)
    for index, layer in enumerate(spec.layers):
        attention, mlp = layer.attention, layer.mlp
        linears = {
            "q": (attention.query_size, hidden, attention.qkv_bias),
            "k": (attention.kv_size, hidden, attention.qkv_bias),
            "v": (attention.kv_size, hidden, attention.qkv_bias),
            "output": (hidden, attention.query_size, attention.output_bias),
            "up": (mlp.intermediate_size, hidden, mlp.bias),
            "down": (hidden, mlp.intermediate_size, mlp.bias),
        }
        if mlp.gated:
            linears["gate"] = linears["up"]
        for name, (rows, columns, bias) in linears.items():
            shapes[Role(f"{name}.weight", index)] = (rows, columns)
            if bias:
                shapes[Role(f"{name}.bias", index)] = (rows,)
        head_norm = attention.qk_norm.norm if attention.qk_norm else None
        norms = {
            "attention_norm": (layer.attention_norm, hidden),
            "q_norm": (head_norm, attention.head_dim),
            "k_norm": (head_norm, attention.head_dim),
            "attention_post_norm": (layer.attention_post_norm, hidden),
            "mlp_norm": (layer.mlp_norm, hidden),
            "mlp_post_norm": (layer.mlp_post_norm, hidden),
        }
        for name, (norm, size) in norms.items():
            shapes |= _norm_weights(name, index, norm, size)
    shapes |= _norm_weights("final_norm", None, spec.final_norm, hidden)
    if not spec.tied_head:
        shapes[Role("head.weight")] = (vocab, hidden)
    if spec.head_bias:
        shapes[Role("head.bias")] = (vocab,)
    return shapes


def _norm_weights(
    name: str, layer: int | None, norm: NormSpec | None, size: int
) -> dict[Role, tuple[int, ...]]:
    if norm is None:
        return {}
    kinds = ("weight", "bias") if norm.bias else ("weight",)
    return {Role(f"{name}.{kind}", layer): (size,) for kind in kinds}
