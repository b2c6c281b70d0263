"""Qwen 2 and 2.5: Llama with biases of queries, keys and values, and a window on some layers."""

from collections.abc import Sequence
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
    first = config.count("max_window_layers", 28)
    slides = [
        window is not None and layer >= first for layer in range(config.size("num_hidden_layers"))
    ]
    return windows_by_type(config, window, slides)


def windows_by_type(config: Fields, window: int | None, slides: Sequence[bool]) -> list[int | None]:
    """One entry per layer, by `layer_types`; `slides`: which layers have the window where the
    config does not say."""
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [SLIDING if each else FULL for each in slides]
    is_complete = isinstance(kinds, list) and len(kinds) == len(slides)
    config.require(is_complete, "layer_types", "name every layer")
    is_known = all(kind in (FULL, SLIDING) for kind in kinds)
    config.require(is_known, "layer_types", f"hold {FULL} and {SLIDING} only")
    has_window = window is not None or SLIDING not in kinds
    config.require(has_window, "layer_types", f"have no {SLIDING} without a sliding_window in use")
    return [window if kind == SLIDING else None for kind in kinds]


def windows_by_pattern(config: Fields, pattern: int) -> list[int | None]:
    """The same for families where every layer has the window but each `pattern`-th (Gemma 2 and 3,
    Cohere 2)."""
    window = None
    if config.get("sliding_window") is not None or not config.has("sliding_window"):
        window = config.size("sliding_window", 4096)
    slides = [(layer + 1) % pattern > 0 for layer in range(config.size("num_hidden_layers"))]
    is_complete = window is not None or config.get("layer_types") is not None
    config.require(is_complete or not any(slides), "sliding_window", "be a number of positions")
    return windows_by_type(config, window, slides)


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
