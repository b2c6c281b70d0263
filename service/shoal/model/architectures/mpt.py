"""MPT: ALiBi, layer norm without bias, plain MLP, no biases.

Options of its training code that `transformers` ignores are refused where they would change the
results.
"""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.alibi import alibi_slopes
from shoal.model.architectures.base import Architecture, TensorSource, one, only, read_size, same_as
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size = read_size(config, "d_model", "hidden_size")
    num_heads = read_size(config, "n_heads", "num_attention_heads")
    config.require(hidden_size % num_heads == 0, "n_heads", "divide d_model")
    config.require(config.flag("no_bias", True), "no_bias", "be true")
    config.require(config.size("expansion_ratio", 4) == 4, "expansion_ratio", "be 4")
    config.require(config.get("logit_scale") is None, "logit_scale", "be left out")
    config.flag("learned_pos_emb", True)  # without effect beside ALiBi
    config.word("norm_type", "low_precision_layernorm", ("low_precision_layernorm", "layernorm"))
    norm = NormSpec("layer", config.number("layer_norm_epsilon", 1e-5))
    attention = _read_attention(config, num_heads, hidden_size // num_heads)
    mlp = MlpSpec(4 * hidden_size, "gelu", gated=False)
    layer = LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=config.size("max_seq_len"),
        layers=(layer,) * read_size(config, "n_layers", "num_hidden_layers"),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", True),
    )


def _read_attention(config: Fields, num_heads: int, head_dim: int) -> AttentionSpec:
    """Of the nested object `attn_config`."""
    settings = config.object("attn_config") or Fields({}, "")
    settings.word("attn_type", "multihead_attention", ("multihead_attention",))
    settings.require(settings.flag("alibi", True), "alibi", "be true")
    settings.require(settings.size("alibi_bias_max", 8) == 8, "alibi_bias_max", "be 8")
    settings.get("model_type")  # transformers writes it
    for key in ("qk_ln", "prefix_lm", "attn_uses_sequence_id", "is_encoder_decoder"):
        settings.require(not settings.flag(key, False), key, "be false")
    has_clip = settings.get("clip_qkv") not in (None, 0)
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=settings.number("softmax_scale", head_dim**-0.5),
        alibi_slopes=alibi_slopes(num_heads),
        clip_qkv=settings.number("clip_qkv") if has_clip else None,
    )


_LAYER = "transformer.blocks.{layer}."

ARCHITECTURE = Architecture(
    model_type="mpt",
    read=read,
    tensors={
        "transformer.wte.weight": one("embedding"),
        _LAYER + "norm_1.weight": one("attention_norm.weight"),
        _LAYER + "attn.Wqkv.weight": TensorSource(("q.weight", "k.weight", "v.weight")),
        _LAYER + "attn.out_proj.weight": one("output.weight"),
        _LAYER + "norm_2.weight": one("mlp_norm.weight"),
        _LAYER + "ffn.up_proj.weight": one("up.weight"),
        _LAYER + "ffn.down_proj.weight": one("down.weight"),
        "transformer.norm_f.weight": one("final_norm.weight"),
        "lm_head.weight": one("head.weight"),
    },
    prefix="transformer.",
    optional_keys={
        "d_model": same_as("hidden_size"),
        "n_heads": same_as("num_attention_heads"),
        "n_layers": same_as("num_hidden_layers"),
        "max_seq_len": same_as("max_position_embeddings"),
        "attn_config": only({}),
        "no_bias": only(),
        "expansion_ratio": only(),
    },
)
