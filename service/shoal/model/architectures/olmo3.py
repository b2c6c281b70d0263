"""OLMo 3: OLMo 2 with a window on all but every fourth layer. Scaled rotary positions are of the
layers without a window only."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture
from shoal.model.architectures.olmo2 import TENSORS, with_norms_behind
from shoal.model.architectures.qwen2 import FULL, SLIDING, windows_by_type
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec, LayerSpec, RotarySpec

_THETA = 500_000.0


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    head_dim = llama.read_head_dim(config)
    full, sliding = _read_rotaries(config, head_dim, max_model_len)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        norm=llama.read_rms_norm(config, 1e-5),
        rotary=full,
    )
    kinds = _read_windows(config)

    def own(layer: LayerSpec, window: int | None) -> LayerSpec:
        is_short = window is not None and window < spec.max_position_embeddings
        attention = replace(
            layer.attention,
            rotary=full if window is None else sliding,
            window=window if is_short else None,
        )
        return replace(layer, mixer=attention)

    layers = tuple(own(*pair) for pair in zip(spec.layers, kinds, strict=True))
    return with_norms_behind(replace(spec, layers=layers))


def _read_windows(config: Fields) -> list[int | None]:
    """One entry per layer."""
    window = None
    if config.get("sliding_window") is not None or not config.has("sliding_window"):
        window = config.size("sliding_window", 4096)
    slides = [(layer + 1) % 4 > 0 for layer in range(config.size("num_hidden_layers"))]
    return windows_by_type(config, window, slides)


def _read_rotaries(
    config: Fields, head_dim: int, max_model_len: int | None
) -> tuple[RotarySpec, RotarySpec]:
    """Of layers without a window, and with one. `rope_parameters` (transformers 5) has settings of
    both; before, `rope_scaling` was of the former. Another `rope_theta` than the family's own means
    both to older versions of transformers, and the former alone to newer ones."""
    by_type, older = config.object("rope_parameters"), config.object("rope_scaling")
    is_once = not (config.get("rope_parameters") and config.get("rope_scaling"))
    config.require(is_once, "rope_scaling", "be left out beside rope_parameters")
    is_own = config.number("rope_theta", _THETA) == _THETA
    rule = f"be {_THETA:.0f}, or stand in rope_parameters for each type of layer"
    config.require(is_own, "rope_theta", rule)
    nothing = Fields({}, "")
    of_full, of_sliding = older or nothing, nothing
    if by_type is not None:
        of_full = by_type.object(FULL) or of_full
        of_sliding = by_type.object(SLIDING) or nothing
        is_by_type = set(config.get("rope_parameters")) <= {FULL, SLIDING}
        config.require(is_by_type, "rope_parameters", f"hold {FULL} and {SLIDING} only")

    def rotary(settings: Fields) -> RotarySpec:
        return read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            settings=settings,
            default_theta=_THETA,
        )

    return rotary(of_full), rotary(of_sliding)


ARCHITECTURE = Architecture(
    model_type="olmo3", read=read, tensors=TENSORS, prefix="model.", optional_keys={}
)
