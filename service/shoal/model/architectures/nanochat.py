"""nanochat: norms without weights, of the embedding and of rotated queries and keys too, a plain
MLP of squared ReLU. It rotates the other way round than Llama."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one, read_activation, with_biases
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec, LayerSpec, NormSpec, QKNormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    head_dim = llama.read_head_dim(config)
    norm = NormSpec("rms", config.number("rms_norm_eps", 1e-6), has_weight=False)
    rotary = read_rotary(
        config,
        head_dim=head_dim,
        max_position_embeddings=config.size("max_position_embeddings"),
        max_model_len=max_model_len,
    )
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        norm=norm,
        rotary=replace(rotary, inv_freq=tuple(-freq for freq in rotary.inv_freq)),
        activation=read_activation(config, "hidden_act", "relu2"),
    )
    qk_norm = QKNormSpec(norm, after_rotary=True)

    def own(layer: LayerSpec) -> LayerSpec:
        attention = replace(layer.attention, qk_norm=qk_norm)
        return replace(layer, mixer=attention, mlp=replace(layer.mlp, gated=False))

    return replace(
        spec,
        layers=tuple(own(layer) for layer in spec.layers),
        embedding_norm=norm,
        logit_soft_cap=llama.read_cap(config, "final_logit_softcapping", 15.0),
    )


ARCHITECTURE = Architecture(
    model_type="nanochat",
    read=read,
    tensors={
        "model.embed_tokens.weight": one("embedding"),
        **with_biases(
            {
                "model.layers.{layer}.self_attn.q_proj.weight": one("q.weight"),
                "model.layers.{layer}.self_attn.k_proj.weight": one("k.weight"),
                "model.layers.{layer}.self_attn.v_proj.weight": one("v.weight"),
                "model.layers.{layer}.self_attn.o_proj.weight": one("output.weight"),
            }
        ),
        "model.layers.{layer}.mlp.fc1.weight": one("up.weight"),
        "model.layers.{layer}.mlp.fc2.weight": one("down.weight"),
        "lm_head.weight": one("head.weight"),
    },
    prefix="model.",
    optional_keys={},
)
