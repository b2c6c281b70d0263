"""Cohere 2 (Command R7B): Cohere with a window on all but every fourth layer; those that have none
have no rotary positions either."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import cohere
from shoal.model.architectures.base import Architecture
from shoal.model.architectures.qwen2 import windows_by_pattern
from shoal.model.spec import DecoderSpec, LayerSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    windows = windows_by_pattern(config, config.size("sliding_window_pattern", 4))
    spec = cohere.read_decoder(config, max_model_len, default_theta=10_000.0, windows=windows)

    def own(layer: LayerSpec, window: int | None) -> LayerSpec:
        has_rotary = window is not None
        return layer if has_rotary else replace(layer, mixer=replace(layer.attention, rotary=None))

    layers = (own(*pair) for pair in zip(spec.layers, windows, strict=True))
    return replace(spec, layers=tuple(layers))


ARCHITECTURE = Architecture(
    model_type="cohere2",
    read=read,
    tensors=cohere.TENSORS,
    prefix="model.",
    optional_keys={},
)
