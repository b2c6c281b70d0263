"""GPT-Neo and TinyStories: GPT-2 without a scale of scores, with a window on some layers."""

from typing import Any

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import (
    Architecture,
    one,
    only,
    read_activation,
    read_size,
    same_as,
    with_biases,
)
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec

GLOBAL, LOCAL = "global", "local"


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    hidden_size = config.size("hidden_size")
    num_heads = read_size(config, "num_heads", "num_attention_heads")
    config.require(hidden_size % num_heads == 0, "num_heads", "divide hidden_size")
    max_positions = config.size("max_position_embeddings")
    norm = NormSpec("layer", config.number("layer_norm_epsilon", 1e-5), bias=True)
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size", 4 * hidden_size),
        activation=read_activation(config, "activation_function", "gelu_new"),
        gated=False,
        bias=True,
    )
    window = config.size("window_size", 256)

    def layer(kind: str) -> LayerSpec:
        attention = AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=hidden_size // num_heads,
            scale=1.0,
            output_bias=True,
            window=window if kind == LOCAL and window < max_positions else None,
        )
        return LayerSpec(attention, mlp, attention_norm=norm, mlp_norm=norm)

    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=max_positions,
        layers=tuple(layer(kind) for kind in read_kinds(config)),
        final_norm=norm,
        tied_head=config.flag("tie_word_embeddings", True),
        learned_positions=True,
    )


def read_kinds(config: Fields) -> list[str]:
    """Of each layer, `global` or `local`: `attention_layers`, or `attention_types`, pairs of a
    pattern and how often it is repeated."""
    num_layers = read_size(config, "num_layers", "num_hidden_layers")
    types, kinds = config.get("attention_types"), config.get("attention_layers")
    if kinds is None or types is not None:
        repeated = _repeated([[[GLOBAL, LOCAL], 12]] if types is None else types, num_layers)
        rule = f"hold patterns of {GLOBAL} and {LOCAL}, each with its count, for all num_layers"
        config.require(_are_kinds(repeated, num_layers), "attention_types", rule)
        is_same = kinds in (None, repeated)
        config.require(is_same, "attention_layers", "agree with attention_types")
        kinds = repeated
    rule = f"say {GLOBAL} or {LOCAL} of each of {num_layers} layers"
    config.require(_are_kinds(kinds, num_layers), "attention_layers", rule)
    return list(kinds)


def _repeated(types: Any, num_layers: int) -> list[Any]:
    """Patterns one after the other; empty where that is not what they are."""
    found: list[Any] = []
    for item in types if isinstance(types, list) else []:
        match item:
            case [list(pattern), int(count)] if 0 < count <= num_layers:
                found += pattern * count
            case _:
                return []
    return found


def _are_kinds(kinds: Any, num_layers: int) -> bool:
    is_complete = isinstance(kinds, list) and len(kinds) == num_layers
    return is_complete and all(kind in (GLOBAL, LOCAL) for kind in kinds)


_LAYER = "transformer.h.{layer}."

ARCHITECTURE = Architecture(
    model_type="gpt_neo",
    read=read,
    tensors={
        "transformer.wte.weight": one("embedding"),
        "transformer.wpe.weight": one("position_embedding"),
        _LAYER + "attn.attention.q_proj.weight": one("q.weight"),
        _LAYER + "attn.attention.k_proj.weight": one("k.weight"),
        _LAYER + "attn.attention.v_proj.weight": one("v.weight"),
        **with_biases(
            {
                _LAYER + "ln_1.weight": one("attention_norm.weight"),
                _LAYER + "attn.attention.out_proj.weight": one("output.weight"),
                _LAYER + "ln_2.weight": one("mlp_norm.weight"),
                _LAYER + "mlp.c_fc.weight": one("up.weight"),
                _LAYER + "mlp.c_proj.weight": one("down.weight"),
                "transformer.ln_f.weight": one("final_norm.weight"),
            }
        ),
        "lm_head.weight": one("head.weight"),
    },
    prefix="transformer.",
    optional_keys={
        "num_layers": same_as("num_hidden_layers"),
        "num_heads": same_as("num_attention_heads"),
        "attention_types": only(),
        "attention_layers": only(),
        "window_size": only(),
    },
)
