"""HunYuan, dense: Llama with a norm of each query and key head after rotation."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one, only
from shoal.model.architectures.rope import read_rotary, rope_settings
from shoal.model.spec import DecoderSpec, LayerSpec, QKNormSpec, RotarySpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    config.require(config.flag("use_qk_norm", True), "use_qk_norm", "be true")
    config.require(config.size("num_experts", 1) == 1, "num_experts", "be 1 in a dense network")
    bias = config.flag("attention_bias", False)
    norm = llama.read_rms_norm(config, 1e-5)
    head_dim = llama.read_head_dim(config)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        norm=norm,
        rotary=_read_rotary(config, max_model_len, head_dim),
    )
    qk_norm = QKNormSpec(norm, after_rotary=True)

    def own(layer: LayerSpec) -> LayerSpec:
        return replace(layer, mixer=replace(layer.attention, qk_norm=qk_norm))

    return replace(spec, layers=tuple(own(layer) for layer in spec.layers))


def _read_rotary(config: Fields, max_model_len: int | None, head_dim: int) -> RotarySpec:
    """`alpha` beside rope_type dynamic (NTK-aware scaling of a fixed strength) multiplies the base
    by alpha ** (head_dim / (head_dim - 2)), whatever the length."""
    settings = rope_settings(config)
    alpha = None if settings.get("alpha") is None else settings.number("alpha")
    rotary = read_rotary(
        config,
        head_dim=head_dim,
        max_position_embeddings=config.size("max_position_embeddings"),
        max_model_len=max_model_len,
    )
    if alpha is None:
        return rotary
    is_dynamic = "dynamic" in (settings.get("rope_type"), settings.get("type"))
    settings.require(is_dynamic, "alpha", "stand beside rope_type dynamic")
    stretched = [
        freq * alpha ** (-2 * pair / (head_dim - 2)) for pair, freq in enumerate(rotary.inv_freq)
    ]
    return replace(rotary, inv_freq=tuple(stretched))


ARCHITECTURE = Architecture(
    model_type="hunyuan_v1_dense",
    read=read,
    tensors={
        **llama.TENSORS,
        "model.layers.{layer}.self_attn.query_layernorm.weight": one("q_norm.weight"),
        "model.layers.{layer}.self_attn.key_layernorm.weight": one("k_norm.weight"),
    },
    prefix="model.",
    optional_keys={"use_cla": only(False)},
)
