"""Phi 1, 1.5 and 2: attention and a plain MLP in parallel behind one layer norm, partial rotary
positions, biases everywhere, the head's too."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    one,
    only,
    read_activation,
    with_biases,
)
from shoal.model.architectures.llama import read_head_dim, read_num_kv_heads
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    QKNormSpec,
)


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    num_heads, num_kv_heads = config.size("num_attention_heads"), read_num_kv_heads(config, None)
    config.require(num_heads % num_kv_heads == 0, "num_key_value_heads", "divide the heads")
    head_dim = read_head_dim(config)
    max_positions = config.size("max_position_embeddings")
    norm = NormSpec("layer", config.number("layer_norm_eps", 1e-5), bias=True)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=max_positions,
            max_model_len=max_model_len,
            default_fraction=0.5,
        ),
        qk_norm=QKNormSpec(norm) if config.flag("qk_layernorm", False) else None,
    )
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=read_activation(config, "hidden_act", "gelu_new"),
        gated=False,
        bias=True,
    )
    layer = LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=None, parallel=True)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        max_position_embeddings=max_positions,
        layers=(layer,) * config.size("num_hidden_layers"),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", False),
        head_bias=True,
    )


ARCHITECTURE = Architecture(
    model_type="phi",
    read=read,
    tensors={
        "model.embed_tokens.weight": one("embedding"),
        **with_biases(
            {
                "model.layers.{layer}.input_layernorm.weight": one("attention_norm.weight"),
                "model.layers.{layer}.self_attn.q_proj.weight": one("q.weight"),
                "model.layers.{layer}.self_attn.k_proj.weight": one("k.weight"),
                "model.layers.{layer}.self_attn.v_proj.weight": one("v.weight"),
                "model.layers.{layer}.self_attn.q_layernorm.weight": one("q_norm.weight"),
                "model.layers.{layer}.self_attn.k_layernorm.weight": one("k_norm.weight"),
                "model.layers.{layer}.self_attn.dense.weight": one("output.weight"),
                "model.layers.{layer}.mlp.fc1.weight": one("up.weight"),
                "model.layers.{layer}.mlp.fc2.weight": one("down.weight"),
                "model.final_layernorm.weight": one("final_norm.weight"),
                "lm_head.weight": one("head.weight"),
            }
        ),
    },
    prefix="model.",
    optional_keys={"qk_layernorm": only(False), "layer_norm_eps": only()},
)
