"""Qwen 2 and 2.5: Llama with biases of queries, keys and values, and a window on some layers."""

from typing import Any

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, only
from shoal.model.spec import DecoderSpec

FULL, SLIDING = "full_attention", "sliding_attention"


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    return llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 32),
        head_dim=llama.read_head_dim(config),
        qkv_bias=True,
        windows=read_windows(config),
    )


def read_windows(config: Fields) -> list[int | None]:
    """One entry per layer: `layer_types` says which have the window; where it is absent, those
    from `max_window_layers` on."""
    window = None
    if config.get("sliding_window") is not None or not config.has("sliding_window"):
        window = config.size("sliding_window", 4096)
    if not config.flag("use_sliding_window", False):
        window = None
    num_layers = config.size("num_hidden_layers")
    first = config.count("max_window_layers", 28)
    kinds = config.get("layer_types")
    if kinds is None:
        return [window if layer >= first else None for layer in range(num_layers)]
    is_complete = isinstance(kinds, list) and len(kinds) == num_layers
    config.require(is_complete, "layer_types", "name every layer")
    is_known = all(kind in (FULL, SLIDING) for kind in kinds)
    config.require(is_known, "layer_types", f"hold {FULL} and {SLIDING} only")
    has_window = window is not None or SLIDING not in kinds
    config.require(has_window, "layer_types", f"have no {SLIDING} without use_sliding_window")
    return [window if kind == SLIDING else None for kind in kinds]


def is_full_attention(kinds: Any, config: Fields) -> bool:
    """Layer types that a network without windows has."""
    return isinstance(kinds, list) and all(kind == FULL for kind in kinds)


ARCHITECTURE = Architecture(
    model_type="qwen2",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={
        "use_sliding_window": only(False),
        "layer_types": is_full_attention,
    },
)
