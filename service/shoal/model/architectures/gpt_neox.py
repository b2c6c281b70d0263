"""GPT-NeoX and Pythia: layer norm, partial rotary positions, plain MLP beside attention behind a
norm of its own, biases everywhere but the head; queries, keys and values alternate by head."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    TensorSource,
    one,
    only,
    read_activation,
    with_biases,
)
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    head_dim = hidden_size // num_heads
    max_positions = config.size("max_position_embeddings")
    norm = NormSpec("layer", config.number("layer_norm_eps", 1e-5), bias=True)
    rule = "be left out: gpt_neox has rotary_pct"
    config.require(config.get("partial_rotary_factor") is None, "partial_rotary_factor", rule)
    bias = config.flag("attention_bias", True)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=bias,
        output_bias=bias,
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=max_positions,
            max_model_len=max_model_len,
            default_fraction=config.number("rotary_pct", 0.25),
            theta_key="rotary_emb_base",
        ),
    )
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=read_activation(config, "hidden_act", "gelu"),
        gated=False,
        bias=True,
    )
    is_parallel = config.flag("use_parallel_residual", True)
    layer = LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm, parallel=is_parallel)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_positions,
        layers=(layer,) * config.size("num_hidden_layers"),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", False),
    )


_LAYER = "gpt_neox.layers.{layer}."

ARCHITECTURE = Architecture(
    model_type="gpt_neox",
    read=read,
    tensors={
        "gpt_neox.embed_in.weight": one("embedding"),
        **with_biases(
            {
                _LAYER + "input_layernorm.weight": one("attention_norm.weight"),
                _LAYER + "attention.query_key_value.weight": TensorSource(
                    ("q.weight", "k.weight", "v.weight"), by_kv_head=True
                ),
                _LAYER + "attention.dense.weight": one("output.weight"),
                _LAYER + "post_attention_layernorm.weight": one("mlp_norm.weight"),
                _LAYER + "mlp.dense_h_to_4h.weight": one("up.weight"),
                _LAYER + "mlp.dense_4h_to_h.weight": one("down.weight"),
                "gpt_neox.final_layer_norm.weight": one("final_norm.weight"),
            }
        ),
        "lm_head.weight": one("head.weight"),
    },
    prefix="gpt_neox.",
    older_names={"embed_out.weight": "lm_head.weight"},
    optional_keys={
        "use_parallel_residual": only(False),
        "rotary_pct": only(),
        "rotary_emb_base": only(),
    },
)
