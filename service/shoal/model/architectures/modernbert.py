"""ModernBERT: an encoder with rotary positions of two bases, norms before each branch but the first
layer's attention, gated MLPs, and windows in both directions on most layers."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import Architecture, TensorSource, one, read_activation
from shoal.model.architectures.qwen2 import FULL, SLIDING, windows_by_type
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    RotarySpec,
)


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    head_dim = hidden_size // num_heads
    config.get("layer_norm_eps")  # stands beside norm_eps, which holds
    norm = NormSpec("layer", config.number("norm_eps", 1e-5), bias=config.flag("norm_bias", False))
    bias = config.flag("attention_bias", False)
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=read_activation(config, "hidden_activation", "gelu"),
        bias=config.flag("mlp_bias", False),
    )
    max_positions = config.size("max_position_embeddings")
    windows = _read_windows(config)
    full, sliding = _read_rotaries(config, head_dim, max_model_len)

    def layer(window: int | None) -> LayerSpec:
        attention = AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            qkv_bias=bias,
            output_bias=bias,
            rotary=full if window is None else sliding,
            window=window if window is not None and window < max_positions else None,
            causal=False,
        )
        return LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm)

    layers = [layer(window) for window in windows]
    layers[0] = replace(layers[0], attention_norm=None)
    config.flag("tie_word_embeddings", True)  # of a head, which is not used
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_positions,
        layers=tuple(layers),
        final_norm=norm,
        tied_head=False,
        has_head=False,
        embedding_norm=norm,
    )


def _read_windows(config: Fields) -> list[int | None]:
    """`local_attention` counts both directions, so a token sees half of it in each, and itself."""
    window = config.size("local_attention", 128) // 2 + 1
    pattern = config.size("global_attn_every_n_layers", 3)
    slides = [layer % pattern > 0 for layer in range(config.size("num_hidden_layers"))]
    return windows_by_type(config, window, slides)


def _read_rotaries(
    config: Fields, head_dim: int, max_model_len: int | None
) -> tuple[RotarySpec, RotarySpec]:
    """Of layers without a window, and with one. `rope_parameters` (transformers 5) has settings of
    both; before, each had a base only."""
    is_whole = config.number("partial_rotary_factor", 1.0) == 1
    config.require(is_whole, "partial_rotary_factor", "be 1")
    by_type, nothing = config.object("rope_parameters"), Fields({}, "")
    if by_type is not None:
        is_by_type = set(config.get("rope_parameters")) <= {FULL, SLIDING}
        config.require(is_by_type, "rope_parameters", f"hold {FULL} and {SLIDING} only")

    def rotary(kind: str, theta_key: str, default_theta: float) -> RotarySpec:
        return read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            settings=(by_type and by_type.object(kind)) or nothing,
            theta_key=theta_key,
            default_theta=default_theta,
        )

    return (
        rotary(FULL, "global_rope_theta", 160_000.0),
        rotary(SLIDING, "local_rope_theta", 10_000.0),
    )


_LAYER = "model.layers.{layer}."
_QKV = ("q", "k", "v")

ARCHITECTURE = Architecture(
    model_type="modernbert",
    read=read,
    tensors={
        "model.embeddings.tok_embeddings.weight": one("embedding"),
        **{
            f"{name}.{kind}": TensorSource(tuple(f"{role}.{kind}" for role in roles))
            for kind in ("weight", "bias")
            for name, roles in {
                "model.embeddings.norm": ("embedding_norm",),
                _LAYER + "attn_norm": ("attention_norm",),
                _LAYER + "attn.Wqkv": _QKV,
                _LAYER + "attn.Wo": ("output",),
                _LAYER + "mlp_norm": ("mlp_norm",),
                _LAYER + "mlp.Wi": ("gate", "up"),
                _LAYER + "mlp.Wo": ("down",),
                "model.final_norm": ("final_norm",),
            }.items()
        },
    },
    prefix="model.",
    optional_keys={},
    unused=("head.", "decoder."),
)
