"""BERT: an encoder. Layer norm behind each sum, learned positions, token types, a plain MLP, biases
everywhere, and no head: its final vectors are what is wanted. Also what similar encoders share."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    TensorTable,
    one,
    read_activation,
    with_biases,
)
from shoal.model.spec import Activation, AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    refuse_decoder(config)
    return read_encoder(
        config,
        max_position_embeddings=config.size("max_position_embeddings", 512),
        eps=config.number("layer_norm_eps", 1e-12),
        num_token_types=config.count("type_vocab_size", 2),
    )


def refuse_decoder(config: Fields) -> None:
    """Classes that can also be decoders, or have other positions. Raises ModelFolderError."""
    config.require(not config.flag("is_decoder", False), "is_decoder", "be false")
    crosses = config.flag("add_cross_attention", False)
    config.require(not crosses, "add_cross_attention", "be false")
    config.word("position_embedding_type", "absolute", ["absolute"])


def read_encoder(
    config: Fields,
    *,
    max_position_embeddings: int,
    eps: float,
    num_token_types: int,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    intermediate_size: int | None = None,
    activation: Activation | None = None,
) -> DecoderSpec:
    """An encoder of this kind. Sizes and activation: of families that name them otherwise than
    BERT; None = as BERT."""
    hidden_size = hidden_size or config.size("hidden_size")
    num_heads = num_heads or config.size("num_attention_heads")
    config.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    head_dim = hidden_size // num_heads
    norm = NormSpec("layer", eps, bias=True)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
        causal=False,
    )
    mlp = MlpSpec(
        intermediate_size=intermediate_size or config.size("intermediate_size"),
        activation=activation or read_activation(config, "hidden_act", "gelu"),
        gated=False,
        bias=True,
    )
    layer = LayerSpec(
        attention,
        mlp,
        attention_norm=None,
        mlp_norm=None,
        attention_post_norm=norm,
        mlp_post_norm=norm,
        post_norm_of="sum",
    )
    config.flag("tie_word_embeddings", True)  # of a head, which is not used
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_position_embeddings,
        layers=(layer,) * (num_layers or config.size("num_hidden_layers")),
        final_norm=None,
        tied_head=False,
        has_head=False,
        learned_positions=True,
        num_token_types=num_token_types,
        embedding_norm=norm,
    )


def encoder_tensors(prefix: str) -> TensorTable:
    """Names of BERT and RoBERTa behind their own prefix."""
    layer = prefix + "encoder.layer.{layer}."
    return {
        prefix + "embeddings.word_embeddings.weight": one("embedding"),
        prefix + "embeddings.token_type_embeddings.weight": one("token_type_embedding"),
        **with_biases(
            {
                prefix + "embeddings.LayerNorm.weight": one("embedding_norm.weight"),
                layer + "attention.self.query.weight": one("q.weight"),
                layer + "attention.self.key.weight": one("k.weight"),
                layer + "attention.self.value.weight": one("v.weight"),
                layer + "attention.output.dense.weight": one("output.weight"),
                layer + "attention.output.LayerNorm.weight": one("attention_post_norm.weight"),
                layer + "intermediate.dense.weight": one("up.weight"),
                layer + "output.dense.weight": one("down.weight"),
                layer + "output.LayerNorm.weight": one("mlp_post_norm.weight"),
            }
        ),
    }


_NORMS = {
    "bert.embeddings.LayerNorm": "embedding_norm",
    "bert.encoder.layer.{layer}.attention.output.LayerNorm": "attention_post_norm",
    "bert.encoder.layer.{layer}.output.LayerNorm": "mlp_post_norm",
}

ARCHITECTURE = Architecture(
    model_type="bert",
    read=read,
    tensors={
        **encoder_tensors("bert."),
        "bert.embeddings.position_embeddings.weight": one("position_embedding"),
    },
    prefix="bert.",
    optional_keys={},
    other_layout={
        f"{name}.{theirs}": one(f"{role}.{ours}")
        for name, role in _NORMS.items()
        for theirs, ours in (("gamma", "weight"), ("beta", "bias"))
    },
    unused=("pooler.", "cls."),
)
