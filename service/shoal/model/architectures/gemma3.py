"""Gemma 3, the text network: Gemma 2 without soft cap of scores, with norms of queries and keys.
Layers with a window have rotary positions of another base than the others, without scaling."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import gemma2, llama
from shoal.model.architectures.base import Architecture, one, only
from shoal.model.architectures.qwen2 import FULL, SLIDING, windows_by_pattern
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec, LayerSpec, QKNormSpec, RotarySpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    config.get("_sliding_window_pattern")  # transformers writes it beside layer_types
    full, sliding = _read_rotaries(config, max_model_len)
    windows = windows_by_pattern(config, config.size("sliding_window_pattern", 6))
    spec = gemma2.read_decoder(config, max_model_len, windows=windows, rotary=full)
    qk_norm = QKNormSpec(llama.read_rms_norm(config, weight_offset=1.0))

    def own(layer: LayerSpec, window: int | None) -> LayerSpec:
        rotary = full if window is None else sliding
        attention = replace(layer.attention, rotary=rotary, qk_norm=qk_norm)
        return replace(layer, mixer=attention)

    return replace(
        spec,
        layers=tuple(own(*pair) for pair in zip(spec.layers, windows, strict=True)),
        logit_soft_cap=llama.read_cap(config, "final_logit_softcapping", None),
    )


def _read_rotaries(config: Fields, max_model_len: int | None) -> tuple[RotarySpec, RotarySpec]:
    """Of layers without a window, and with one. `rope_parameters` (transformers 5) has settings of
    both; before, `rope_theta` and `rope_scaling` were of the former, `rope_local_base_freq` of the
    latter."""
    by_type, older = config.object("rope_parameters"), config.object("rope_scaling")
    is_once = not (config.get("rope_parameters") and config.get("rope_scaling"))
    config.require(is_once, "rope_scaling", "be left out beside rope_parameters")
    nothing = Fields({}, "")
    of_full, of_sliding = older or nothing, nothing
    if by_type is not None:
        of_full = by_type.object(FULL) or of_full
        of_sliding = by_type.object(SLIDING) or nothing
        is_by_type = set(config.get("rope_parameters")) <= {FULL, SLIDING}
        config.require(is_by_type, "rope_parameters", f"hold {FULL} and {SLIDING} only")

    def rotary(settings: Fields, theta_key: str, default_theta: float) -> RotarySpec:
        return read_rotary(
            config,
            head_dim=config.size("head_dim", 256),
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            settings=settings,
            theta_key=theta_key,
            default_theta=default_theta,
        )

    return (
        rotary(of_full, "rope_theta", 1_000_000.0),
        rotary(of_sliding, "rope_local_base_freq", 10_000.0),
    )


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    read=read,
    tensors={
        **gemma2.TENSORS,
        "model.layers.{layer}.self_attn.q_norm.weight": one("q_norm.weight"),
        "model.layers.{layer}.self_attn.k_norm.weight": one("k_norm.weight"),
    },
    prefix="model.",
    optional_keys={"rope_local_base_freq": only(), "sliding_window_pattern": only()},
)
