"""StableLM: Llama with layer norms, a quarter of each head rotated, in some models a norm of every
head by itself and attention and MLP in parallel."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, TensorSource, one, only
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec, LayerSpec, NormSpec, QKNormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    head_dim = llama.read_head_dim(config)
    is_whole = head_dim * config.size("num_attention_heads") == config.size("hidden_size")
    config.require(is_whole, "head_dim", "be hidden_size divided by num_attention_heads")
    eps = config.number("layer_norm_eps", 1e-5)
    norm = NormSpec("layer", eps, bias=True)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 32),
        head_dim=head_dim,
        qkv_bias=config.flag("use_qkv_bias", False),
        norm=norm,
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            default_fraction=0.25,
        ),
    )
    qk_norm = None
    if config.flag("qk_layernorm", False):
        qk_norm = QKNormSpec(NormSpec("layer", eps), weight_per_head=True)
    is_parallel = config.flag("use_parallel_residual", False)

    def own(layer: LayerSpec) -> LayerSpec:
        return replace(
            layer,
            mixer=replace(layer.attention, qk_norm=qk_norm),
            mlp_norm=None if is_parallel else norm,
            parallel=is_parallel,
        )

    return replace(spec, layers=tuple(own(layer) for layer in spec.layers))


ARCHITECTURE = Architecture(
    model_type="stablelm",
    read=read,
    tensors={
        **llama.TENSORS,
        "model.layers.{layer}.input_layernorm.bias": one("attention_norm.bias"),
        "model.layers.{layer}.post_attention_layernorm.bias": one("mlp_norm.bias"),
        "model.layers.{layer}.self_attn.q_layernorm.norms.{head}.weight": TensorSource(
            ("q_norm.weight",), per_head=True
        ),
        "model.layers.{layer}.self_attn.k_layernorm.norms.{head}.weight": TensorSource(
            ("k_norm.weight",), per_head=True
        ),
        "model.norm.bias": one("final_norm.bias"),
    },
    prefix="model.",
    optional_keys={"use_qkv_bias": only(False), "use_parallel_residual": only(False)},
)
