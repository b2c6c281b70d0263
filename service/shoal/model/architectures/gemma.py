"""Gemma: Llama with scaled embeddings, norms of 1 + weight, GELU and a head size of its own."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, only, read_activation
from shoal.model.spec import Activation, DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    activation = read_activation(config, "hidden_act", "gelu_pytorch_tanh")
    if activation == "gelu":  # in the first configs; the models were trained with the other
        activation = "gelu_tanh"
    refuse_another(config, "hidden_activation", "hidden_act", activation)
    bias = config.flag("attention_bias", False)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 16),
        head_dim=config.size("head_dim", 256),
        qkv_bias=bias,
        output_bias=bias,
        norm=llama.read_rms_norm(config, weight_offset=1.0),
        activation=activation,
        default_tied=True,
    )
    return replace(spec, embedding_multiplier=spec.hidden_size**0.5)


def refuse_another(config: Fields, key: str, own_key: str, activation: Activation) -> None:
    """Gemma's configs often have two keys for the activation; the family reads `own_key`."""
    is_same = config.get(key) is None or read_activation(config, key, "") == activation
    config.require(is_same, key, f"mean the same as {own_key}, which is {activation}")


ARCHITECTURE = Architecture(
    model_type="gemma",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={"hidden_activation": only()},
)
