"""Qwen 1.5 and 2 with experts: Qwen 2 whose MLPs are experts on some layers, beside a shared one
behind a gate."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one, only
from shoal.model.architectures.experts import (
    EXPERT_KEYS,
    QWEN_TENSORS,
    STACKED_TENSORS,
    read_experts,
    with_sparse_layers,
)
from shoal.model.architectures.qwen2 import windows_by_type
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 16),
        head_dim=llama.read_head_dim(config),
        qkv_bias=config.flag("qkv_bias", True),
        windows=_read_windows(config),
    )
    normalized = config.flag("norm_topk_prob", False)
    experts = replace(
        read_experts(config, config.size("num_experts"), normalized=normalized),
        shared_intermediate_size=config.size("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    return with_sparse_layers(config, spec, experts)


def _read_windows(config: Fields) -> list[int | None]:
    """One entry per layer: `layer_types` says which have the window; where it is absent, every
    other one of the first `max_window_layers`."""
    window = None
    has_window = config.get("sliding_window") is not None or not config.has("sliding_window")
    if config.flag("use_sliding_window", False) and has_window:  # unused, it may be 0
        window = config.size("sliding_window", 4096)
    last = config.count("max_window_layers", 28)
    slides = [
        window is not None and layer % 2 == 0 and layer < last
        for layer in range(config.size("num_hidden_layers"))
    ]
    return windows_by_type(config, window, slides)


_MLP = "model.layers.{layer}.mlp."

ARCHITECTURE = Architecture(
    model_type="qwen2_moe",
    read=read,
    tensors={
        **llama.TENSORS,
        **QWEN_TENSORS,
        _MLP + "shared_expert.gate_proj.weight": one("shared.gate.weight"),
        _MLP + "shared_expert.up_proj.weight": one("shared.up.weight"),
        _MLP + "shared_expert.down_proj.weight": one("shared.down.weight"),
        _MLP + "shared_expert_gate.weight": one("shared_gate.weight"),
    },
    prefix="model.",
    optional_keys={**EXPERT_KEYS, "qkv_bias": only(False)},
    other_layout=STACKED_TENSORS,
)
