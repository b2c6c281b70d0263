"""Cohere (Command R): attention and MLP in parallel behind one layer norm without bias, rotary
positions of neighbouring channels, scaled logits. Also what Cohere 2 shares."""

from collections.abc import Sequence
from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, TensorSource, TensorTable, only
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec, LayerSpec, NormSpec, QKNormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    spec = read_decoder(config, max_model_len, default_theta=500_000.0)
    if not config.flag("use_qk_norm", False):
        return spec
    qk_norm = QKNormSpec(_read_norm(config), weight_per_head=True)

    def normed(layer: LayerSpec) -> LayerSpec:
        return replace(layer, mixer=replace(layer.attention, qk_norm=qk_norm))

    return replace(spec, layers=tuple(normed(layer) for layer in spec.layers))


def read_decoder(
    config: Fields,
    max_model_len: int | None,
    *,
    default_theta: float,
    windows: Sequence[int | None] | None = None,
) -> DecoderSpec:
    """What Cohere 1 and 2 have in common."""
    config.require(config.number("rotary_pct", 1.0) == 1, "rotary_pct", "be 1")
    bias = config.flag("attention_bias", False)
    head_dim = llama.read_head_dim(config)
    rotary = read_rotary(
        config,
        head_dim=head_dim,
        max_position_embeddings=config.size("max_position_embeddings"),
        max_model_len=max_model_len,
        default_theta=default_theta,
    )
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        norm=_read_norm(config),
        rotary=replace(rotary, interleaved=True),
        windows=windows,
        default_tied=True,
    )
    return replace(
        spec,
        layers=tuple(replace(layer, mlp_norm=None, parallel=True) for layer in spec.layers),
        logit_multiplier=config.number("logit_scale", 0.0625),
    )


def _read_norm(config: Fields) -> NormSpec:
    return NormSpec("layer", config.number("layer_norm_eps", 1e-5))


TENSORS: TensorTable = {
    name: source for name, source in llama.TENSORS.items() if "post_attention_layernorm" not in name
}

ARCHITECTURE = Architecture(
    model_type="cohere",
    read=read,
    tensors={
        **TENSORS,
        "model.layers.{layer}.self_attn.q_norm.weight": TensorSource(
            ("q_norm.weight",), per_head=True
        ),
        "model.layers.{layer}.self_attn.k_norm.weight": TensorSource(
            ("k_norm.weight",), per_head=True
        ),
    },
    prefix="model.",
    optional_keys={"logit_scale": only(1), "use_qk_norm": only(False)},
)
