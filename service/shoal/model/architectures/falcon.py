"""Falcon: three layouts of one network. 7b: attention with one KV head beside a plain MLP, behind
one layer norm. 40b and 11b (`new_decoder_architecture`): KV heads shared by groups, one norm or one
for each branch. rw: ALiBi, one branch after the other.

ALiBi of Falcon is added before scores are scaled, so its slopes are scaled here. `transformers`
rounds slopes times positions to bfloat16 whatever the weights' format, and its eager attention adds
them twice (as of 5.23); here they are exact and added once, as in its default attention.
"""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.alibi import alibi_slopes
from shoal.model.architectures.base import (
    Architecture,
    TensorSource,
    TensorTable,
    one,
    only,
    read_activation,
    read_size,
    same_as,
    with_biases,
)
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size = read_size(config, "hidden_size", "n_embed")
    num_heads = config.size("num_attention_heads")
    config.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    head_dim = hidden_size // num_heads
    max_positions = config.size("max_position_embeddings", 2048)
    bias = config.flag("bias", False)
    norm = NormSpec("layer", config.number("layer_norm_epsilon", 1e-5), bias=True)
    rotary = read_rotary(
        config,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        max_model_len=max_model_len,
    )
    has_alibi, scale = config.flag("alibi", False), head_dim**-0.5
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=_read_num_kv_heads(config, num_heads),
        head_dim=head_dim,
        scale=scale,
        qkv_bias=bias,
        output_bias=bias,
        rotary=None if has_alibi else rotary,
        alibi_slopes=tuple(scale * one for one in alibi_slopes(num_heads)) if has_alibi else None,
    )
    mlp = MlpSpec(
        intermediate_size=config.size("ffn_hidden_size", 4 * hidden_size),
        activation=read_activation(config, "activation", "gelu"),
        gated=False,
        bias=bias,
    )
    is_parallel, shares_norm = _read_places(config)
    layer = LayerSpec(attention, mlp, norm, None if shares_norm else norm, parallel=is_parallel)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_positions,
        layers=(layer,) * config.size("num_hidden_layers"),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", True),
    )


def _read_num_kv_heads(config: Fields, num_heads: int) -> int:
    """What the layout says; only the new one has a free choice."""
    num_kv_heads = config.size("num_kv_heads", num_heads)
    is_multi_query = config.flag("multi_query", True)
    if config.flag("new_decoder_architecture", False):
        config.require(num_heads % num_kv_heads == 0, "num_kv_heads", "divide the heads")
        return num_kv_heads
    if is_multi_query:
        return 1
    rule = "be num_attention_heads without multi_query and new_decoder_architecture"
    config.require(num_kv_heads == num_heads, "num_kv_heads", rule)
    return num_heads


def _read_places(config: Fields) -> tuple[bool, bool]:
    """(Is the MLP beside attention? Does it read what attention reads?)"""
    is_new, is_parallel = (
        config.flag("new_decoder_architecture", False),
        config.flag("parallel_attn", True),
    )
    num_norms = config.size("num_ln_in_parallel_attn", 2 if is_new else 1)
    if is_new:
        config.require(is_parallel, "parallel_attn", "be true with new_decoder_architecture")
        config.require(num_norms <= 2, "num_ln_in_parallel_attn", "be 1 or 2")
    else:
        rule = "be 1 without new_decoder_architecture"
        config.require(num_norms == 1, "num_ln_in_parallel_attn", rule)
    return is_parallel, is_parallel and num_norms == 1


_LAYER = "transformer.h.{layer}."


def tensors_of(spec: DecoderSpec) -> TensorTable:
    """Two norms of a parallel layer are named by their branch."""
    layer = spec.layers[0]
    is_by_branch = layer.parallel and layer.mlp_norm is not None
    names = (
        ("ln_attn", "ln_mlp") if is_by_branch else ("input_layernorm", "post_attention_layernorm")
    )
    return with_biases(
        {
            f"{_LAYER}{names[0]}.weight": one("attention_norm.weight"),
            f"{_LAYER}{names[1]}.weight": one("mlp_norm.weight"),
        }
    )


ARCHITECTURE = Architecture(
    model_type="falcon",
    read=read,
    tensors={
        "transformer.word_embeddings.weight": one("embedding"),
        **with_biases(
            {
                _LAYER + "self_attention.query_key_value.weight": TensorSource(
                    ("q.weight", "k.weight", "v.weight"), by_kv_head=True
                ),
                _LAYER + "self_attention.dense.weight": one("output.weight"),
                _LAYER + "mlp.dense_h_to_4h.weight": one("up.weight"),
                _LAYER + "mlp.dense_4h_to_h.weight": one("down.weight"),
                "transformer.ln_f.weight": one("final_norm.weight"),
            }
        ),
        "lm_head.weight": one("head.weight"),
    },
    prefix="transformer.",
    optional_keys={
        "bias": only(False),
        "alibi": only(False),
        "activation": only(),
        "ffn_hidden_size": same_as("intermediate_size"),
        "num_kv_heads": same_as("num_attention_heads"),
        "multi_query": only(False),
        "parallel_attn": only(),
        "new_decoder_architecture": only(False),
        "num_ln_in_parallel_attn": only(),
    },
    tensors_of=tensors_of,
)
