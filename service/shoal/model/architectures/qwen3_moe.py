"""Qwen 3 with experts on some layers, and the window on all or none."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama, qwen3
from shoal.model.architectures.base import Architecture, read_size
from shoal.model.architectures.experts import (
    QWEN_TENSORS,
    STACKED_TENSORS,
    read_experts,
    with_sparse_layers,
)
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    window = None
    if config.get("sliding_window") is not None or not config.has("sliding_window"):
        window = config.size("sliding_window", 4096)
    if not config.flag("use_sliding_window", False):
        window = None
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 4),
        head_dim=llama.read_head_dim(config),
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
        windows=[window] * config.size("num_hidden_layers"),
    )
    num_experts = read_size(config, "num_experts", "num_local_experts")
    normalized = config.flag("norm_topk_prob", False)
    experts = read_experts(config, num_experts, normalized=normalized)
    return with_sparse_layers(config, spec, experts)


ARCHITECTURE = Architecture(
    model_type="qwen3_moe",
    read=read,
    tensors={**qwen3.ARCHITECTURE.tensors, **QWEN_TENSORS},
    prefix="model.",
    optional_keys={},
    other_layout=STACKED_TENSORS,
)
