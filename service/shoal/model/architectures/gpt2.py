"""GPT-2: layer norm, learned positions, plain MLP, biases everywhere, matrices stored [in, out]."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    TensorSource,
    one,
    only,
    read_activation,
    read_size,
    same_as,
    with_biases,
)
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size = read_size(config, "n_embd", "hidden_size")
    num_heads = read_size(config, "n_head", "num_attention_heads")
    config.require(hidden_size % num_heads == 0, "n_head", "divide n_embd")
    is_decoder_only = not config.flag("add_cross_attention", False)
    config.require(is_decoder_only, "add_cross_attention", "be false")
    config.flag("reorder_and_upcast_attn", False)  # asks for float32 scores, which are always used
    norm = NormSpec("layer", config.number("layer_norm_epsilon", 1e-5), bias=True)
    mlp = MlpSpec(
        intermediate_size=config.size("n_inner", 4 * hidden_size),
        activation=read_activation(config, "activation_function", "gelu_new"),
        gated=False,
        bias=True,
    )
    head_dim = hidden_size // num_heads
    scale = head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    is_scaled_by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)

    def layer(index: int) -> LayerSpec:
        attention = AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=head_dim,
            scale=scale / (index + 1) if is_scaled_by_layer else scale,
            qkv_bias=True,
            output_bias=True,
        )
        return LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm)

    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=read_size(config, "n_positions", "max_position_embeddings"),
        layers=tuple(
            layer(index) for index in range(read_size(config, "n_layer", "num_hidden_layers"))
        ),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", True),
        learned_positions=True,
    )


def _transposed(*roles: str) -> TensorSource:
    return TensorSource(roles, transposed=True)


ARCHITECTURE = Architecture(
    model_type="gpt2",
    read=read,
    tensors={
        "transformer.wte.weight": one("embedding"),
        "transformer.wpe.weight": one("position_embedding"),
        **with_biases(
            {
                "transformer.h.{layer}.ln_1.weight": one("attention_norm.weight"),
                "transformer.h.{layer}.attn.c_attn.weight": _transposed(
                    "q.weight", "k.weight", "v.weight"
                ),
                "transformer.h.{layer}.attn.c_proj.weight": _transposed("output.weight"),
                "transformer.h.{layer}.ln_2.weight": one("mlp_norm.weight"),
                "transformer.h.{layer}.mlp.c_fc.weight": _transposed("up.weight"),
                "transformer.h.{layer}.mlp.c_proj.weight": _transposed("down.weight"),
                "transformer.ln_f.weight": one("final_norm.weight"),
            }
        ),
        "lm_head.weight": one("head.weight"),
    },
    prefix="transformer.",
    optional_keys={
        "scale_attn_weights": only(True),
        "scale_attn_by_inverse_layer_idx": only(False),
        "add_cross_attention": only(False),
        "n_embd": same_as("hidden_size"),
        "n_head": same_as("num_attention_heads"),
        "n_layer": same_as("num_hidden_layers"),
        "n_positions": same_as("max_position_embeddings"),
        "n_inner": same_as("intermediate_size"),
        "activation_function": only(),
        "layer_norm_epsilon": only(),
    },
)
