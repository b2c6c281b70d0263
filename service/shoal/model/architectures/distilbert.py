"""DistilBERT: BERT without token types, under other names."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    one,
    read_activation,
    read_size,
    with_biases,
)
from shoal.model.architectures.bert import read_encoder
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    config.flag("sinusoidal_pos_embds", False)  # what the stored table was filled with at first
    return read_encoder(
        config,
        max_position_embeddings=config.size("max_position_embeddings", 512),
        eps=1e-12,
        num_token_types=0,
        hidden_size=read_size(config, "dim", "hidden_size"),
        num_layers=read_size(config, "n_layers", "num_hidden_layers"),
        num_heads=read_size(config, "n_heads", "num_attention_heads"),
        intermediate_size=config.size("hidden_dim"),
        activation=read_activation(config, "activation", "gelu"),
    )


_LAYER = "distilbert.transformer.layer.{layer}."

ARCHITECTURE = Architecture(
    model_type="distilbert",
    read=read,
    tensors={
        "distilbert.embeddings.word_embeddings.weight": one("embedding"),
        "distilbert.embeddings.position_embeddings.weight": one("position_embedding"),
        **with_biases(
            {
                "distilbert.embeddings.LayerNorm.weight": one("embedding_norm.weight"),
                _LAYER + "attention.q_lin.weight": one("q.weight"),
                _LAYER + "attention.k_lin.weight": one("k.weight"),
                _LAYER + "attention.v_lin.weight": one("v.weight"),
                _LAYER + "attention.out_lin.weight": one("output.weight"),
                _LAYER + "sa_layer_norm.weight": one("attention_post_norm.weight"),
                _LAYER + "ffn.lin1.weight": one("up.weight"),
                _LAYER + "ffn.lin2.weight": one("down.weight"),
                _LAYER + "output_layer_norm.weight": one("mlp_post_norm.weight"),
            }
        ),
    },
    prefix="distilbert.",
    optional_keys={},
    unused=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)
