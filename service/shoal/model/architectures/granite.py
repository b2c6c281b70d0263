"""Granite: Llama with four multipliers: of embeddings, scores, branches and logits."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, only
from shoal.model.spec import DecoderSpec, LayerSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    spec = llama.read(config, max_model_len)
    scale = config.number("attention_multiplier", 1.0)
    residual_multiplier = config.number("residual_multiplier", 1.0)

    def own(layer: LayerSpec) -> LayerSpec:
        attention = replace(layer.attention, scale=scale)
        return replace(layer, mixer=attention, residual_multiplier=residual_multiplier)

    return replace(
        spec,
        layers=tuple(own(layer) for layer in spec.layers),
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logit_multiplier=1 / config.number("logits_scaling", 1.0),
    )


ARCHITECTURE = Architecture(
    model_type="granite",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={
        "embedding_multiplier": only(1),
        "attention_multiplier": only(),
        "residual_multiplier": only(1),
        "logits_scaling": only(1),
    },
)
