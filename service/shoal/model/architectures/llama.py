"""Llama: RMS norm, rotary positions, grouped heads, gated MLP. Also what similar families share."""

from collections.abc import Sequence

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    Neutral,
    TensorTable,
    one,
    only,
    read_activation,
    same_as,
    with_biases,
)
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import (
    Activation,
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    QKNormSpec,
    RotarySpec,
)


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    return read_decoder(
        config,
        max_model_len,
        num_kv_heads=read_num_kv_heads(config, None),
        head_dim=read_head_dim(config),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
    )


def read_decoder(
    config: Fields,
    max_model_len: int | None,
    *,
    num_kv_heads: int,
    head_dim: int,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: Sequence[int | None] | None = None,
    norm: NormSpec | None = None,
    rotary: RotarySpec | None = None,
    activation: Activation | None = None,
    default_tied: bool = False,
) -> DecoderSpec:
    """A decoder of this kind; `windows` has one entry per layer, None = none anywhere. `norm`,
    `rotary` and `activation`: of families that name them otherwise than Llama; None = as Llama.
    `default_tied`: is the head the embedding where the config does not say?"""
    hidden_size = config.size("hidden_size")
    num_heads = config.size("num_attention_heads")
    config.require(num_heads % num_kv_heads == 0, "num_key_value_heads", "divide the heads")
    max_positions = config.size("max_position_embeddings")
    norm = norm or read_rms_norm(config)
    rotary = rotary or read_rotary(
        config,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        max_model_len=max_model_len,
    )
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=activation or read_activation(config, "hidden_act", "silu"),
        bias=mlp_bias,
    )

    def layer(window: int | None) -> LayerSpec:
        attention = AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            rotary=rotary,
            qk_norm=QKNormSpec(norm) if qk_norm else None,
            window=window if window is not None and window < max_positions else None,
        )
        return LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm)

    windows = windows or [None] * config.size("num_hidden_layers")
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_positions,
        layers=tuple(layer(window) for window in windows),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", default_tied),
    )


def read_rms_norm(
    config: Fields, default_eps: float = 1e-6, *, weight_offset: float = 0.0
) -> NormSpec:
    """The norm of all layers."""
    return NormSpec("rms", config.number("rms_norm_eps", default_eps), weight_offset=weight_offset)


def read_num_kv_heads(config: Fields, default: int | None) -> int:
    """`default`: the family's own where the key is absent, None for as many as there are heads;
    the value null means the latter in every family."""
    num_heads = config.size("num_attention_heads")
    if default is None or config.has("num_key_value_heads"):
        default = num_heads
    return config.size("num_key_value_heads", default)


def read_head_dim(config: Fields) -> int:
    """Of the key, else the width divided among the heads."""
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    if config.get("head_dim") is None:
        config.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    return config.size("head_dim", hidden_size // num_heads)


def read_cap(config: Fields, key: str, default: float | None) -> float | None:
    """A soft cap, `default` where the key is absent; null means none."""
    if config.get(key) is None:
        return None if config.has(key) else default
    return config.number(key)


def has_no_effect(window: object, config: Fields) -> bool:
    """A window longer than any sequence, or switched off by use_sliding_window."""
    longest = config.get("max_position_embeddings")
    is_long = isinstance(window, int) and isinstance(longest, int) and window >= longest
    return window is None or is_long or config.get("use_sliding_window") is False


ROTARY_KEYS: dict[str, Neutral] = {
    "rope_theta": only(),
    "rope_scaling": only({}),
    "rope_parameters": only({}),
    "partial_rotary_factor": only(),
}
"""Refused by families without rotary positions."""

TENSORS: TensorTable = {
    "model.embed_tokens.weight": one("embedding"),
    "model.layers.{layer}.input_layernorm.weight": one("attention_norm.weight"),
    "model.layers.{layer}.post_attention_layernorm.weight": one("mlp_norm.weight"),
    **with_biases(
        {
            "model.layers.{layer}.self_attn.q_proj.weight": one("q.weight"),
            "model.layers.{layer}.self_attn.k_proj.weight": one("k.weight"),
            "model.layers.{layer}.self_attn.v_proj.weight": one("v.weight"),
            "model.layers.{layer}.self_attn.o_proj.weight": one("output.weight"),
            "model.layers.{layer}.mlp.gate_proj.weight": one("gate.weight"),
            "model.layers.{layer}.mlp.up_proj.weight": one("up.weight"),
            "model.layers.{layer}.mlp.down_proj.weight": one("down.weight"),
        }
    ),
    "model.norm.weight": one("final_norm.weight"),
    "lm_head.weight": one("head.weight"),
}

ARCHITECTURE = Architecture(
    model_type="llama",
    read=read,
    tensors=TENSORS,
    prefix="model.",
    optional_keys={
        **ROTARY_KEYS,
        "attention_bias": only(False),
        "mlp_bias": only(False),
        "num_key_value_heads": same_as("num_attention_heads"),
        "head_dim": only(),
        "hidden_act": only(),
        "intermediate_size": only(),
        "rms_norm_eps": only(),
    },
)
