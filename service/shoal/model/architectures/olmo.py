"""OLMo: Llama with layer norms that have no weights, and clipped queries, keys and values."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, only
from shoal.model.spec import DecoderSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    clip = None if config.get("clip_qkv") is None else config.number("clip_qkv")
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=llama.read_head_dim(config),
        qkv_bias=bias,
        output_bias=bias,
        norm=NormSpec("layer", 1e-5, has_weight=False),
    )
    layers = [
        replace(layer, mixer=replace(layer.attention, clip_qkv=clip)) for layer in spec.layers
    ]
    return replace(spec, layers=tuple(layers))


ARCHITECTURE = Architecture(
    model_type="olmo",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={"clip_qkv": only()},
)
