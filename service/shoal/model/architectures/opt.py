"""OPT: layer norm, learned positions that begin at the table's third row, plain MLP, biases. The
350m one has its norms behind each sum, none at the end, and a narrower embedding."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    TensorSource,
    TensorTable,
    one,
    only,
    read_activation,
    with_biases,
)
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    head_dim = hidden_size // num_heads
    bias = config.flag("enable_bias", True)
    has_weights = config.flag("layer_norm_elementwise_affine", True)
    norm = NormSpec("layer", 1e-5, bias=has_weights, has_weight=has_weights)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=bias,
        output_bias=bias,
    )
    mlp = MlpSpec(
        intermediate_size=config.size("ffn_dim"),
        activation=read_activation(config, "activation_function", "relu"),
        gated=False,
        bias=bias,
    )
    norms_before = config.flag("do_layer_norm_before", True)
    layer = LayerSpec(
        attention,
        mlp,
        attention_norm=norm if norms_before else None,
        mlp_norm=norm if norms_before else None,
        attention_post_norm=None if norms_before else norm,
        mlp_post_norm=None if norms_before else norm,
        post_norm_of="branch" if norms_before else "sum",
    )
    has_final_norm = norms_before and not config.flag("_remove_final_layer_norm", False)
    width = config.size("word_embed_proj_dim", hidden_size)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=config.size("max_position_embeddings"),
        layers=(layer,) * config.size("num_hidden_layers"),
        final_norm=norm if has_final_norm else None,
        tied_head=config.flag("tie_word_embeddings", True),
        learned_positions=True,
        embedding_size=None if width == hidden_size else width,
    )


_LAYER = "model.decoder.layers.{layer}."


def tensors_of(spec: DecoderSpec) -> TensorTable:
    """A layer's norms have the same names before a branch and behind a sum."""
    place = "norm" if spec.layers[0].attention_norm else "post_norm"
    return with_biases(
        {
            _LAYER + "self_attn_layer_norm.weight": one(f"attention_{place}.weight"),
            _LAYER + "final_layer_norm.weight": one(f"mlp_{place}.weight"),
        }
    )


ARCHITECTURE = Architecture(
    model_type="opt",
    read=read,
    tensors={
        "model.decoder.embed_tokens.weight": one("embedding"),
        "model.decoder.embed_positions.weight": TensorSource(("position_embedding",), first_row=2),
        "model.decoder.project_in.weight": one("embedding_projection.weight"),
        **with_biases(
            {
                _LAYER + "self_attn.q_proj.weight": one("q.weight"),
                _LAYER + "self_attn.k_proj.weight": one("k.weight"),
                _LAYER + "self_attn.v_proj.weight": one("v.weight"),
                _LAYER + "self_attn.out_proj.weight": one("output.weight"),
                _LAYER + "fc1.weight": one("up.weight"),
                _LAYER + "fc2.weight": one("down.weight"),
                "model.decoder.final_layer_norm.weight": one("final_norm.weight"),
            }
        ),
        "model.decoder.project_out.weight": one("head_projection.weight"),
        "lm_head.weight": one("head.weight"),
    },
    prefix="model.",
    optional_keys={
        "ffn_dim": only(),
        "do_layer_norm_before": only(True),
        "enable_bias": only(),
        "layer_norm_elementwise_affine": only(True),
        "word_embed_proj_dim": only(),
        "_remove_final_layer_norm": only(False),
    },
    tensors_of=tensors_of,
)
