"""Gemma 2: Gemma with a norm after each branch too, a scale of its own, soft caps, and a window on
every other layer."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, TensorTable, one, only, read_activation
from shoal.model.architectures.gemma import refuse_another
from shoal.model.architectures.qwen2 import windows_by_pattern
from shoal.model.spec import DecoderSpec, LayerSpec, RotarySpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    spec = read_decoder(config, max_model_len, windows=windows_by_pattern(config, 2))
    soft_cap = llama.read_cap(config, "attn_logit_softcapping", 50.0)

    def capped(layer: LayerSpec) -> LayerSpec:
        return replace(layer, mixer=replace(layer.attention, soft_cap=soft_cap))

    return replace(
        spec,
        layers=tuple(capped(layer) for layer in spec.layers),
        logit_soft_cap=llama.read_cap(config, "final_logit_softcapping", 30.0),
    )


def read_decoder(
    config: Fields,
    max_model_len: int | None,
    *,
    windows: list[int | None],
    rotary: RotarySpec | None = None,
) -> DecoderSpec:
    """What Gemma 2 and 3 have in common."""
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    refuse_another(config, "hidden_act", "hidden_activation", activation)
    bias = config.flag("attention_bias", False)
    norm = llama.read_rms_norm(config, weight_offset=1.0)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 4),
        head_dim=config.size("head_dim", 256),
        qkv_bias=bias,
        output_bias=bias,
        norm=norm,
        rotary=rotary,
        activation=activation,
        windows=windows,
        default_tied=True,
    )
    scale = config.number("query_pre_attn_scalar", 256) ** -0.5

    def own(layer: LayerSpec) -> LayerSpec:
        attention = replace(layer.attention, scale=scale)
        return replace(layer, mixer=attention, attention_post_norm=norm, mlp_post_norm=norm)

    return replace(
        spec,
        layers=tuple(own(layer) for layer in spec.layers),
        embedding_multiplier=spec.hidden_size**0.5,
    )


TENSORS: TensorTable = {
    **llama.TENSORS,
    "model.layers.{layer}.post_attention_layernorm.weight": one("attention_post_norm.weight"),
    "model.layers.{layer}.pre_feedforward_layernorm.weight": one("mlp_norm.weight"),
    "model.layers.{layer}.post_feedforward_layernorm.weight": one("mlp_post_norm.weight"),
}

ARCHITECTURE = Architecture(
    model_type="gemma2",
    read=read,
    tensors=TENSORS,
    prefix="model.",
    optional_keys={
        "query_pre_attn_scalar": only(),
        "attn_logit_softcapping": only(),
        "final_logit_softcapping": only(),
    },
)
