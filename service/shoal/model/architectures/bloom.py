"""BLOOM: ALiBi, a layer norm behind the embedding, plain MLP, biases everywhere but the head;
queries, keys and values alternate by head."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.alibi import alibi_slopes
from shoal.model.architectures.base import (
    Architecture,
    TensorSource,
    one,
    only,
    read_size,
    same_as,
    with_biases,
)
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size = read_size(config, "hidden_size", "n_embed")
    num_heads = read_size(config, "n_head", "num_attention_heads")
    config.require(hidden_size % num_heads == 0, "n_head", "divide hidden_size")
    head_dim = hidden_size // num_heads
    norms_residual = config.flag("apply_residual_connection_post_layernorm", False)
    config.require(not norms_residual, "apply_residual_connection_post_layernorm", "be false")
    config.flag("slow_but_exact", False)  # another order of additions only
    norm = NormSpec("layer", config.number("layer_norm_epsilon", 1e-5), bias=True)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
        alibi_slopes=alibi_slopes(num_heads),
    )
    mlp = MlpSpec(4 * hidden_size, "gelu_tanh", gated=False, bias=True)
    layer = LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm)
    # No weight depends on the context's length, and not every file names it.
    max_positions = config.size("max_position_embeddings", config.size("seq_length", 2048))
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_positions,
        layers=(layer,) * read_size(config, "n_layer", "num_hidden_layers"),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", True),
        embedding_norm=norm,
    )


_LAYER = "transformer.h.{layer}."

ARCHITECTURE = Architecture(
    model_type="bloom",
    read=read,
    tensors={
        "transformer.word_embeddings.weight": one("embedding"),
        **with_biases(
            {
                "transformer.word_embeddings_layernorm.weight": one("embedding_norm.weight"),
                _LAYER + "input_layernorm.weight": one("attention_norm.weight"),
                _LAYER + "self_attention.query_key_value.weight": TensorSource(
                    ("q.weight", "k.weight", "v.weight"), by_kv_head=True
                ),
                _LAYER + "self_attention.dense.weight": one("output.weight"),
                _LAYER + "post_attention_layernorm.weight": one("mlp_norm.weight"),
                _LAYER + "mlp.dense_h_to_4h.weight": one("up.weight"),
                _LAYER + "mlp.dense_4h_to_h.weight": one("down.weight"),
                "transformer.ln_f.weight": one("final_norm.weight"),
            }
        ),
        "lm_head.weight": one("head.weight"),
    },
    prefix="transformer.",
    optional_keys={
        "n_embed": same_as("hidden_size"),
        "apply_residual_connection_post_layernorm": only(False),
    },
)
