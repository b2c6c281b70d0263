"""SmolLM3: Llama without rotary positions on every fourth layer; those may have a window."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, only
from shoal.model.architectures.qwen2 import windows_by_type
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec, LayerSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    head_dim = llama.read_head_dim(config)
    rotates = _read_rotates(config)
    uses_window = config.flag("use_sliding_window", False)
    has_window = config.get("sliding_window") is not None
    window = config.size("sliding_window") if has_window and uses_window else None
    slides = [window is not None and not each for each in rotates]
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 4),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        windows=windows_by_type(config, window, slides),
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            default_theta=2_000_000.0,
        ),
        default_tied=True,
    )

    def own(layer: LayerSpec, rotated: bool) -> LayerSpec:
        return layer if rotated else replace(layer, mixer=replace(layer.attention, rotary=None))

    layers = (own(*pair) for pair in zip(spec.layers, rotates, strict=True))
    return replace(spec, layers=tuple(layers))


def _read_rotates(config: Fields) -> list[bool]:
    """Which layers have rotary positions. `no_rope_layers` has a 1 for those that do, and may be
    longer than the network."""
    interval = config.size("no_rope_layer_interval", 4)
    num_layers = config.size("num_hidden_layers")
    flags = config.get("no_rope_layers")
    if flags is None:
        return [(layer + 1) % interval != 0 for layer in range(num_layers)]
    is_complete = isinstance(flags, list) and len(flags) >= num_layers
    is_known = is_complete and all(flag in (0, 1) for flag in flags)
    config.require(is_known, "no_rope_layers", "hold 0 or 1 for every layer")
    return [bool(flag) for flag in flags[:num_layers]]


ARCHITECTURE = Architecture(
    model_type="smollm3",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={"no_rope_layers": only(), "no_rope_layer_interval": only()},
)
