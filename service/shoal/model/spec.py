"""What a decoder is made of: sizes, one description per layer, the head. Numbers only.

A family (`architectures/<family>.py`) reads a config into a `DecoderSpec`; the PyTorch decoder and
the native kernels execute it. Nothing here knows files, torch or a family's name. Every default
means what a plain Llama does, so a family names only what it does differently.

A weight is named by its role, not by the family's tensor name: `expected_weights` lists every role
of a spec with its shape.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
"""relu2: relu(x) ** 2."""
NormKind = Literal["rms", "layer"]
Pooling = Literal["mean", "first", "last"]
"""Over the final vectors of a sequence: their mean, that of its first token (cls), of its last."""


@dataclass(frozen=True, slots=True)
class NormSpec:
    """RMS norm (Zhang and Sennrich, 2019) or layer norm (Ba et al., 2016) over one vector."""

    kind: NormKind
    eps: float
    bias: bool = False
    """Is a vector added after scaling?"""
    weight_offset: float = 0.0
    """The scale is this plus the weight: 1 for Gemma."""
    has_weight: bool = True
    """False: only normalized, there is no scale (OLMo)."""


@dataclass(frozen=True, slots=True)
class RotarySpec:
    """Rotary positions (Su et al., 2021) of queries and keys."""

    inv_freq: tuple[float, ...]
    """Radians per position of each rotated pair of channels, scaling included. The first
    `2 * len(inv_freq)` channels of a head are rotated; the others stay as they are."""
    magnitude: float = 1.0
    """Factor on cosines and sines (yarn, longrope)."""
    interleaved: bool = False
    """Pair i is channels 2i and 2i + 1 (GPT-J, Cohere); otherwise i and `i + len(inv_freq)`."""


@dataclass(frozen=True, slots=True)
class QKNormSpec:
    """A norm of queries and keys, with a weight of its own each."""

    norm: NormSpec
    over: Literal["head", "all"] = "head"
    """Over each head by itself, or over all heads of a token together (OLMo 2); of the latter the
    weight is [heads * head_dim]."""
    weight_per_head: bool = False
    """Norm over each head, and every head has its own weights [heads * head_dim] (Cohere,
    StableLM); otherwise the heads share [head_dim]."""
    after_rotary: bool = False
    """Otherwise before it."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Attention with grouped heads."""

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
    """A token sees only so many positions back, itself included; and as many ahead where attention
    is not causal."""
    soft_cap: float | None = None
    """Scores become cap * tanh(score / cap) (Gemma 2)."""
    alibi_slopes: tuple[float, ...] | None = None
    """[num_heads]; slope * (key position - query position) is added to scaled scores (Press et
    al., 2021)."""
    clip_qkv: float | None = None
    """Queries, keys and values are kept within plus and minus this, before any norm (OLMo)."""
    clip_after_norm: bool = False
    """Queries and keys are clipped after their norm instead (OLMoE)."""
    causal: bool = True
    """Does a token see only itself and those before it? Otherwise the whole sequence, which is
    then computed in one step (BERT)."""

    @property
    def query_size(self) -> int:
        """Channels of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Channels of all key heads; as many of all value heads."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class ShortConvSpec:
    """Gated causal convolution of each channel over time (LFM2): b, c, x = in(u);
    y = c * conv(b * x); out(y). Its state is the last `kernel_size - 1` values of b * x."""

    kernel_size: int
    """At least 2."""
    bias: bool = False
    """On the convolution and both linear layers."""

    def values_per_block(self, block_size: int) -> int:
        """Tokens of a KV block whose b * x is kept: the last ones of those that are computed. So
        whoever has a sequence's blocks has its state, and no step may go back: computing a token
        again would need values that are gone."""
        return min(self.kernel_size - 1, block_size)


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """Experts (Shazeer et al., 2017): a router picks some MLPs per token; each has the sizes of the
    MlpSpec it belongs to. Picked are the largest router logits, of equal ones the lower expert;
    weights are a softmax over all router logits. Both are float32 whatever the weights' format, and
    outputs are added from the largest weight to the smallest, so a token's result is its own."""

    num_experts: int
    num_experts_per_token: int
    normalized: bool
    """Are the weights of the picked experts divided by their sum?"""
    shared_intermediate_size: int | None = None
    """An MLP of this width that every token passes beside its experts."""
    shared_gate: bool = False
    """Its output is multiplied by sigmoid(shared_gate(x)), one number per token (Qwen2-MoE)."""


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """down(act(gate(x)) * up(x)) where gated, else down(act(up(x)))."""

    intermediate_size: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    """On all of its linear layers."""
    experts: ExpertsSpec | None = None
    """None: one MLP for all tokens."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A mixer (attention, mostly) and an MLP around one residual stream x.

    One after the other:  x += post(mixer(norm(x)));  x += post(mlp(norm(x)))
    Parallel:             x += post(mixer(norm(x))) + post(mlp(norm(x)))

    Each branch is multiplied by `residual_multiplier` before it is added.
    """

    mixer: AttentionSpec | ShortConvSpec
    mlp: MlpSpec
    attention_norm: NormSpec | None
    """Before the mixer; None = none."""
    mlp_norm: NormSpec | None
    """Before the MLP. None in a parallel layer: the MLP reads what attention reads (Phi)."""
    attention_post_norm: NormSpec | None = None
    """Of the branch's output, before it is added (Gemma 2 and 3, OLMo 2)."""
    mlp_post_norm: NormSpec | None = None
    post_norm_of: Literal["branch", "sum"] = "branch"
    """sum: x = post(x + branch(norm(x))), as in the first transformer (OPT-350m)."""
    parallel: bool = False
    residual_multiplier: float = 1.0

    @property
    def attention(self) -> AttentionSpec:
        """The mixer of a layer that attends. Raises TypeError for another."""
        if not isinstance(self.mixer, AttentionSpec):
            raise TypeError(f"the layer mixes by {type(self.mixer).__name__}")
        return self.mixer

    @property
    def attends(self) -> bool:
        return isinstance(self.mixer, AttentionSpec)


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """How the final vectors of a sequence become its embedding."""

    pooling: Pooling
    normalized: bool = False
    """Is it divided by its length?"""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """Layers over one sequence: a decoder, or an encoder, where attention is not causal."""

    vocab_size: int
    """Rows of the embedding."""
    hidden_size: int
    max_position_embeddings: int
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec | None
    tied_head: bool
    """Is the embedding also the head? False without a head."""
    head_bias: bool = False
    learned_positions: bool = False
    """Is a row of a table added to the embedding for each position (GPT-2)?"""
    num_token_types: int = 0
    """Rows of a table whose first is added to every embedding, before positions: all tokens are of
    the first type (BERT). 0 = there is none."""
    embedding_multiplier: float = 1.0
    embedding_norm: NormSpec | None = None
    """Of the embedding, before the first layer (BLOOM)."""
    embedding_size: int | None = None
    """Width of the embedding and the head where it is not hidden_size; a matrix leads in and one
    out (OPT-350m)."""
    logit_multiplier: float = 1.0
    """Logits are multiplied by it, before the soft cap (Cohere, Granite)."""
    logit_soft_cap: float | None = None
    """Logits become cap * tanh(logit / cap) (Gemma 2)."""
    has_head: bool = True
    """False: it writes no text, its final vectors are what is wanted (BERT)."""
    embedding: EmbeddingSpec | None = None
    """None: it makes no embeddings."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def is_causal(self) -> bool:
        """Does every token see only itself and those before it?"""
        return all(layer.attention.causal for layer in self.layers if layer.attends)

    @property
    def kv_numbers_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return sum(2 * layer.attention.kv_size for layer in self.layers if layer.attends)

    @property
    def may_go_back(self) -> bool:
        """May a step compute other tokens at positions that were computed? A short convolution
        keeps what the last tokens left."""
        return all(layer.attends for layer in self.layers)

    def state_bytes_per_block(self, block_size: int) -> int:
        """What a KV block holds beside keys and values: float32 values of convolutions."""
        mixers = [layer.mixer for layer in self.layers]
        convs = [mixer for mixer in mixers if isinstance(mixer, ShortConvSpec)]
        return sum(4 * self.hidden_size * conv.values_per_block(block_size) for conv in convs)


class Role(NamedTuple):
    """What a weight is for."""

    name: str
    layer: int | None = None
    """None for what is not part of a layer."""

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layers.{self.layer}.{self.name}"


Shape = tuple[int, ...]
_Shapes = dict[str, Shape]
"""Role within a layer, or of no layer -> shape."""


def expected_weights(spec: DecoderSpec) -> dict[Role, Shape]:
    """Every role of the network with its shape; matrices are [out, in].

    Not of a layer: `embedding`, `token_type_embedding`, `position_embedding`, `embedding_norm.*`,
    `embedding_projection.weight`, `final_norm.*`, `head_projection.weight`, `head.weight` (absent
    where tied and without a head), `head.bias`. Of every layer: `attention_norm.*`,
    `attention_post_norm.*`, `mlp_norm.*`, `mlp_post_norm.*`. Of attention: `q.*`, `k.*`, `v.*`,
    `q_norm.*`, `k_norm.*`, `output.*`. Of a short convolution: `conv_in.*` (b, c and x), `conv.*`,
    `conv_out.*`. Of an MLP: `gate.*`, `up.*`, `down.*`; with experts `router.weight`,
    `experts.<n>.gate.*` and so on, `shared.gate.*` and so on, `shared_gate.weight`. * is weight or
    bias.
    """
    hidden, width = spec.hidden_size, spec.embedding_size or spec.hidden_size
    shapes: _Shapes = {"embedding": (spec.vocab_size, width)}
    if spec.num_token_types:
        shapes["token_type_embedding"] = (spec.num_token_types, hidden)
    if spec.learned_positions:
        shapes["position_embedding"] = (spec.max_position_embeddings, hidden)
    if spec.embedding_size is not None:
        shapes["embedding_projection.weight"] = (hidden, width)
        shapes["head_projection.weight"] = (width, hidden)
    shapes |= _norm("embedding_norm", spec.embedding_norm, hidden)
    shapes |= _norm("final_norm", spec.final_norm, hidden)
    if spec.has_head and not spec.tied_head:
        shapes["head.weight"] = (spec.vocab_size, width)
    if spec.head_bias:
        shapes["head.bias"] = (spec.vocab_size,)
    found = {Role(name): shape for name, shape in shapes.items()}
    for index, layer in enumerate(spec.layers):
        found |= {Role(name, index): shape for name, shape in _of_layer(layer, hidden).items()}
    return found


def _of_layer(layer: LayerSpec, hidden: int) -> _Shapes:
    norms = {
        "attention_norm": layer.attention_norm,
        "attention_post_norm": layer.attention_post_norm,
        "mlp_norm": layer.mlp_norm,
        "mlp_post_norm": layer.mlp_post_norm,
    }
    if isinstance(layer.mixer, AttentionSpec):
        shapes = _of_attention(layer.mixer, hidden)
    else:
        shapes = _of_short_conv(layer.mixer, hidden)
    for name, norm in norms.items():
        shapes |= _norm(name, norm, hidden)
    return shapes | _of_mlp(layer.mlp, hidden)


def _of_attention(attention: AttentionSpec, hidden: int) -> _Shapes:
    shapes = {
        **_linear("q", attention.query_size, hidden, attention.qkv_bias),
        **_linear("k", attention.kv_size, hidden, attention.qkv_bias),
        **_linear("v", attention.kv_size, hidden, attention.qkv_bias),
        **_linear("output", hidden, attention.query_size, attention.output_bias),
    }
    qk_norm = attention.qk_norm
    if qk_norm is not None:
        is_shared = qk_norm.over == "head" and not qk_norm.weight_per_head
        head_dim = attention.head_dim
        shapes |= _norm("q_norm", qk_norm.norm, head_dim if is_shared else attention.query_size)
        shapes |= _norm("k_norm", qk_norm.norm, head_dim if is_shared else attention.kv_size)
    return shapes


def _of_short_conv(conv: ShortConvSpec, hidden: int) -> _Shapes:
    shapes: _Shapes = {
        **_linear("conv_in", 3 * hidden, hidden, conv.bias),
        **_linear("conv_out", hidden, hidden, conv.bias),
        "conv.weight": (hidden, conv.kernel_size),
    }
    return shapes | {"conv.bias": (hidden,)} if conv.bias else shapes


def _of_mlp(mlp: MlpSpec, hidden: int) -> _Shapes:
    experts = mlp.experts
    if experts is None:
        return _one_mlp("", mlp, mlp.intermediate_size, hidden)
    shapes: _Shapes = {"router.weight": (experts.num_experts, hidden)}
    for index in range(experts.num_experts):
        shapes |= _one_mlp(f"experts.{index}.", mlp, mlp.intermediate_size, hidden)
    if experts.shared_intermediate_size is not None:
        shapes |= _one_mlp("shared.", mlp, experts.shared_intermediate_size, hidden)
    if experts.shared_gate:
        shapes["shared_gate.weight"] = (1, hidden)
    return shapes


def _one_mlp(prefix: str, mlp: MlpSpec, inside: int, hidden: int) -> _Shapes:
    shapes = _linear(f"{prefix}up", inside, hidden, mlp.bias)
    if mlp.gated:
        shapes |= _linear(f"{prefix}gate", inside, hidden, mlp.bias)
    return shapes | _linear(f"{prefix}down", hidden, inside, mlp.bias)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> _Shapes:
    shapes: _Shapes = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def _norm(name: str, norm: NormSpec | None, size: int) -> _Shapes:
    if norm is None:
        return {}
    kinds = {"weight": norm.has_weight, "bias": norm.bias}
    return {f"{name}.{kind}": (size,) for kind, exists in kinds.items() if exists}
