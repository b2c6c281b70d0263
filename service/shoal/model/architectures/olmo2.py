"""OLMo 2: Llama with the norms behind each branch instead of before it, and a norm over all query
and over all key channels."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, TensorTable, one
from shoal.model.spec import DecoderSpec, LayerSpec, QKNormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=llama.read_head_dim(config),
        qkv_bias=bias,
        output_bias=bias,
        norm=llama.read_rms_norm(config, 1e-5),
    )
    return with_norms_behind(spec)


def with_norms_behind(spec: DecoderSpec) -> DecoderSpec:
    """The norms of OLMo 2 instead of Llama's."""

    def changed(layer: LayerSpec) -> LayerSpec:
        norm = layer.attention_norm
        assert norm is not None
        return replace(
            layer,
            mixer=replace(layer.attention, qk_norm=QKNormSpec(norm, over="all")),
            attention_norm=None,
            mlp_norm=None,
            attention_post_norm=norm,
            mlp_post_norm=norm,
        )

    return replace(spec, layers=tuple(changed(layer) for layer in spec.layers))


_LAYER = "model.layers.{layer}."

TENSORS: TensorTable = {
    **llama.TENSORS,
    _LAYER + "post_attention_layernorm.weight": one("attention_post_norm.weight"),
    _LAYER + "post_feedforward_layernorm.weight": one("mlp_post_norm.weight"),
    _LAYER + "self_attn.q_norm.weight": one("q_norm.weight"),
    _LAYER + "self_attn.k_norm.weight": one("k_norm.weight"),
}

ARCHITECTURE = Architecture(
    model_type="olmo2", read=read, tensors=TENSORS, prefix="model.", optional_keys={}
)
