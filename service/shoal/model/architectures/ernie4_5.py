"""Ernie 4.5, dense: Llama with rotary positions of neighbouring channels and one switch for all
biases."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, only
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("use_bias", False)
    is_null = config.has("head_dim") and config.get("head_dim") is None
    head_dim = llama.read_head_dim(config) if is_null else config.size("head_dim", 128)
    rotary = read_rotary(
        config,
        head_dim=head_dim,
        max_position_embeddings=config.size("max_position_embeddings"),
        max_model_len=max_model_len,
        default_theta=500_000.0,
    )
    return llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 2),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        norm=llama.read_rms_norm(config, 1e-5),
        rotary=replace(rotary, interleaved=True),
        default_tied=True,
    )


ARCHITECTURE = Architecture(
    model_type="ernie4_5",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={"use_bias": only(False)},
)
