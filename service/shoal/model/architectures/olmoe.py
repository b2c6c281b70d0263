"""OLMoE: Llama with experts on every layer, a norm over all query and over all key channels, and
queries, keys and values that are clipped behind it."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one, read_size
from shoal.model.architectures.experts import (
    QWEN_TENSORS,
    STACKED_TENSORS,
    read_experts,
    with_experts,
)
from shoal.model.spec import DecoderSpec, LayerSpec, QKNormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    clip = None if config.get("clip_qkv") is None else config.number("clip_qkv")
    norm = llama.read_rms_norm(config, 1e-5)
    head_dim = llama.read_head_dim(config)
    is_whole = head_dim * config.size("num_attention_heads") == config.size("hidden_size")
    config.require(is_whole, "head_dim", "be hidden_size divided among the heads")
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        norm=norm,
    )

    def own(layer: LayerSpec) -> LayerSpec:
        attention = replace(
            layer.attention,
            qk_norm=QKNormSpec(norm, over="all"),
            clip_qkv=clip,
            clip_after_norm=clip is not None,
        )
        return replace(layer, mixer=attention)

    spec = replace(spec, layers=tuple(own(layer) for layer in spec.layers))
    num_experts = read_size(config, "num_experts", "num_local_experts")
    normalized = config.flag("norm_topk_prob", False)
    return with_experts(spec, read_experts(config, num_experts, normalized=normalized))


ARCHITECTURE = Architecture(
    model_type="olmoe",
    read=read,
    tensors={
        **llama.TENSORS,
        **QWEN_TENSORS,
        "model.layers.{layer}.self_attn.q_norm.weight": one("q_norm.weight"),
        "model.layers.{layer}.self_attn.k_norm.weight": one("k_norm.weight"),
    },
    prefix="model.",
    optional_keys={},
    other_layout=STACKED_TENSORS,
)
