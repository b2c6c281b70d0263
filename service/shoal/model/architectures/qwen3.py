"""Qwen 3: Llama with a norm of each query and key head before rotation, windows as in Qwen 2."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one
from shoal.model.architectures.qwen2 import read_windows
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    return llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 32),
        head_dim=config.size("head_dim", 128),
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
        windows=read_windows(config),
    )


ARCHITECTURE = Architecture(
    model_type="qwen3",
    read=read,
    tensors={
        **llama.TENSORS,
        "model.layers.{layer}.self_attn.q_norm.weight": one("q_norm.weight"),
        "model.layers.{layer}.self_attn.k_norm.weight": one("k_norm.weight"),
    },
    prefix="model.",
    optional_keys={},
)
