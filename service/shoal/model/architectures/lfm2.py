"""LFM2: gated short convolutions between layers with attention; norms of queries and keys.

The final norm is called `embedding_norm` in the file. With `block_auto_adjust_ff_dim` the MLP is
narrower than the config says: two thirds, times a factor, rounded up to a multiple.
"""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, TensorSource, one, only, with_biases
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    QKNormSpec,
    ShortConvSpec,
)

ATTENTION, CONV = "full_attention", "conv"
_REPEATED = {
    "block_dim": "hidden_size",
    "conv_dim": "hidden_size",
    "conv_dim_out": "hidden_size",
    "num_heads": "num_attention_heads",
    "block_norm_eps": "norm_eps",
}
"""Keys of LiquidAI's own configs that say again what another one says."""
_SWITCHES = ("block_use_swiglu", "use_pos_enc")
"""The same, always on."""


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    num_heads = config.size("num_attention_heads")
    num_kv_heads = llama.read_num_kv_heads(config, 8)
    config.require(num_heads % num_kv_heads == 0, "num_key_value_heads", "divide the heads")
    max_positions = config.size("max_position_embeddings")
    norm = NormSpec("rms", config.number("norm_eps", 1e-5))
    head_dim = llama.read_head_dim(config)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=max_positions,
            max_model_len=max_model_len,
            default_theta=1_000_000.0,
        ),
        qk_norm=QKNormSpec(norm),
    )
    kernel_size = config.size("conv_L_cache", 3)
    config.require(kernel_size > 1, "conv_L_cache", "be at least 2")
    conv = ShortConvSpec(kernel_size, bias=config.flag("conv_bias", False))
    mlp = MlpSpec(_intermediate_size(config))
    _check_repeated(config)
    tied = config.flag("tie_word_embeddings", True)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        max_position_embeddings=max_positions,
        layers=tuple(
            LayerSpec(attention if attends else conv, mlp, attention_norm=norm, mlp_norm=norm)
            for attends in _attends(config)
        ),
        final_norm=norm,
        tied_head=config.flag("tie_embedding", tied),
    )


def _attends(config: Fields) -> list[bool]:
    """Of each layer: `layer_types` says it, or `full_attn_idxs`, without both all attend."""
    num_layers = config.size("num_hidden_layers")
    kinds, indices = config.get("layer_types"), config.get("full_attn_idxs")
    if indices is not None:
        is_list = isinstance(indices, list) and all(type(index) is int for index in indices)
        config.require(is_list, "full_attn_idxs", "be a list of layers")
        indices = {index for index in indices if 0 <= index < num_layers}
    if kinds is None:
        return [indices is None or layer in indices for layer in range(num_layers)]
    is_complete = isinstance(kinds, list) and len(kinds) == num_layers
    config.require(is_complete, "layer_types", "name every layer")
    is_known = all(kind in (ATTENTION, CONV) for kind in kinds)
    config.require(is_known, "layer_types", f"hold {ATTENTION} and {CONV} only")
    attends = [kind == ATTENTION for kind in kinds]
    agrees = indices is None or indices == {i for i, attend in enumerate(attends) if attend}
    config.require(agrees, "full_attn_idxs", "agree with layer_types")
    return attends


def _intermediate_size(config: Fields) -> int:
    """As it is built, not as it is written."""
    size = config.size("intermediate_size", 12288)
    size = config.size("block_ff_dim", size)
    factor = config.number("block_ffn_dim_multiplier", 1.0)
    multiple = config.size("block_multiple_of", 256)
    if not config.flag("block_auto_adjust_ff_dim", True):
        return size
    size = int(2 * size / 3)
    if config.has("block_ffn_dim_multiplier") and config.get("block_ffn_dim_multiplier") is None:
        return size
    return -(-int(factor * size) // multiple) * multiple


def _check_repeated(config: Fields) -> None:
    for key, original in _REPEATED.items():
        value = config.get(key)
        agrees = value is None or value == config.get(original)
        config.require(agrees, key, f"be left out or equal {original}")
    for key in _SWITCHES:
        config.require(config.flag(key, True), key, "be true")


_LAYER = "model.layers.{layer}."

ARCHITECTURE = Architecture(
    model_type="lfm2",
    read=read,
    tensors={
        "model.embed_tokens.weight": one("embedding"),
        _LAYER + "operator_norm.weight": one("attention_norm.weight"),
        _LAYER + "ffn_norm.weight": one("mlp_norm.weight"),
        _LAYER + "self_attn.q_proj.weight": one("q.weight"),
        _LAYER + "self_attn.k_proj.weight": one("k.weight"),
        _LAYER + "self_attn.v_proj.weight": one("v.weight"),
        _LAYER + "self_attn.out_proj.weight": one("output.weight"),
        _LAYER + "self_attn.q_layernorm.weight": one("q_norm.weight"),
        _LAYER + "self_attn.k_layernorm.weight": one("k_norm.weight"),
        _LAYER + "conv.conv.weight": TensorSource(("conv.weight",), depthwise=True),
        _LAYER + "conv.conv.bias": one("conv.bias"),
        **with_biases(
            {
                _LAYER + "conv.in_proj.weight": one("conv_in.weight"),
                _LAYER + "conv.out_proj.weight": one("conv_out.weight"),
            }
        ),
        _LAYER + "feed_forward.w1.weight": one("gate.weight"),
        _LAYER + "feed_forward.w3.weight": one("up.weight"),
        _LAYER + "feed_forward.w2.weight": one("down.weight"),
        "model.embedding_norm.weight": one("final_norm.weight"),
        "lm_head.weight": one("head.weight"),
    },
    prefix="model.",
    optional_keys={
        key: only()
        for key in (
            "norm_eps",
            "conv_bias",
            "conv_L_cache",
            "full_attn_idxs",
            "block_ff_dim",
            "block_auto_adjust_ff_dim",
            "block_ffn_dim_multiplier",
            "block_multiple_of",
            "tie_embedding",
            *_REPEATED,
            *_SWITCHES,
        )
    },
)
