"""GPT-J: attention and a plain MLP in parallel behind one layer norm, rotary positions of
neighbouring channels, biases of the MLP and the head."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    one,
    only,
    read_activation,
    read_size,
    with_biases,
)
from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    RotarySpec,
)


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size = read_size(config, "n_embd", "hidden_size")
    num_heads = read_size(config, "n_head", "num_attention_heads")
    config.require(hidden_size % num_heads == 0, "n_head", "divide n_embd")
    head_dim = hidden_size // num_heads
    norm = NormSpec("layer", config.number("layer_norm_epsilon", 1e-5), bias=True)
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rotary=_read_rotary(config, head_dim),
    )
    mlp = MlpSpec(
        intermediate_size=config.size("n_inner", 4 * hidden_size),
        activation=read_activation(config, "activation_function", "gelu_new"),
        gated=False,
        bias=True,
    )
    layer = LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=None, parallel=True)
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=read_size(config, "n_positions", "max_position_embeddings"),
        layers=(layer,) * read_size(config, "n_layer", "num_hidden_layers"),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", False),
        head_bias=True,
    )


def _read_rotary(config: Fields, head_dim: int) -> RotarySpec:
    """`rotary_dim` channels of each head are rotated, 64 where the key is absent."""
    is_set = config.get("rotary_dim") is not None or not config.has("rotary_dim")
    config.require(is_set, "rotary_dim", "be the number of rotated channels of a head")
    rotary_dim = config.size("rotary_dim", 64)
    is_usable = rotary_dim % 2 == 0 and rotary_dim <= head_dim
    config.require(
        is_usable, "rotary_dim", f"be even and at most the {head_dim} channels of a head"
    )
    pairs = range(rotary_dim // 2)
    inv_freq = tuple(10_000.0 ** (-2.0 * pair / rotary_dim) for pair in pairs)
    return RotarySpec(inv_freq, interleaved=True)


_LAYER = "transformer.h.{layer}."

ARCHITECTURE = Architecture(
    model_type="gptj",
    read=read,
    tensors={
        "transformer.wte.weight": one("embedding"),
        _LAYER + "attn.q_proj.weight": one("q.weight"),
        _LAYER + "attn.k_proj.weight": one("k.weight"),
        _LAYER + "attn.v_proj.weight": one("v.weight"),
        _LAYER + "attn.out_proj.weight": one("output.weight"),
        **with_biases(
            {
                _LAYER + "ln_1.weight": one("attention_norm.weight"),
                _LAYER + "mlp.fc_in.weight": one("up.weight"),
                _LAYER + "mlp.fc_out.weight": one("down.weight"),
                "transformer.ln_f.weight": one("final_norm.weight"),
                "lm_head.weight": one("head.weight"),
            }
        ),
    },
    prefix="transformer.",
    optional_keys={"rotary_dim": only()},
)
