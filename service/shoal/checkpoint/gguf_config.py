"""Metadata of a GGUF file as a config with Hugging Face's keys.

Here is what architectures share; the table of them is in `gguf_architectures.py`. The config says
everything explicitly that the format knows by architecture alone.
"""

import math
from collections.abc import Mapping
from typing import Any

from shoal.checkpoint.gguf_keys import GgufKeys

Config = dict[str, Any]

_SCALINGS = ("none", "linear", "yarn", "longrope")


def read_decoder(keys: GgufKeys, *, kv_heads: bool = True) -> Config:
    """Sizes that every architecture has."""
    num_heads = keys.size("attention.head_count")
    config: Config = {
        "hidden_size": keys.size("embedding_length"),
        "num_hidden_layers": keys.size("block_count"),
        "intermediate_size": keys.size("feed_forward_length"),
        "num_attention_heads": num_heads,
        "max_position_embeddings": keys.size("context_length"),
        "vocab_size": read_vocab_size(keys),
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }
    if kv_heads:
        config["num_key_value_heads"] = keys.size("attention.head_count_kv", num_heads)
    else:
        keys.require(
            keys.size("attention.head_count_kv", num_heads) == num_heads,
            "attention.head_count_kv",
            f"be {num_heads}, as many as there are heads",
        )
    return config


def read_vocab_size(keys: GgufKeys) -> int:
    """Rows of the embedding."""
    rows = keys.tensor("token_embd.weight").shape[0]
    is_said = keys.size("vocab_size", rows) == rows
    keys.require(is_said, "vocab_size", f"be {rows}, the rows of token_embd.weight")
    return rows


def read_head_dim(keys: GgufKeys) -> int:
    """Channels of a head."""
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    if not keys.has("attention.key_length"):
        keys.require(hidden % heads == 0, "attention.head_count", "divide embedding_length")
    head_dim = keys.size("attention.key_length", hidden // heads)
    is_same = keys.size("attention.value_length", head_dim) == head_dim
    keys.require(is_same, "attention.value_length", f"be {head_dim}, as attention.key_length")
    return head_dim


def plain_head_dim(keys: GgufKeys) -> int:
    """The same of an architecture that divides the width among the heads."""
    head_dim = read_head_dim(keys)
    heads, hidden = keys.size("attention.head_count"), keys.size("embedding_length")
    keys.require(heads * head_dim == hidden, "attention.key_length", "be the width per head")
    return head_dim


def read_rope(
    keys: GgufKeys,
    head_dim: int,
    *,
    theta: str = "rope_theta",
    fraction: str | None = None,
) -> Config:
    """Rotary positions. `theta`, `fraction`: the config's names of base and rotated share; None
    where all channels are rotated."""
    config: Config = {theta: keys.number("rope.freq_base", 10_000.0)}
    rotary_dim = keys.size("rope.dimension_count", head_dim)
    if fraction is not None:
        keys.require(rotary_dim <= head_dim, "rope.dimension_count", f"be at most {head_dim}")
        config[fraction] = _fraction(rotary_dim, head_dim)
    else:
        keys.require(rotary_dim == head_dim, "rope.dimension_count", f"be {head_dim}")
    scaling = _read_scaling(keys)
    return config if scaling is None else config | {"rope_scaling": scaling}


def _read_scaling(keys: GgufKeys) -> Config | None:
    given = keys.optional_number("rope.scaling.factor")
    older = keys.optional_number("rope.scale_linear")
    factor = given or older or 1.0
    kind = keys.word("rope.scaling.type", "none" if factor == 1 else "linear", _SCALINGS)
    original = keys.count("rope.scaling.original_context_length", 0)
    factors = keys.factors("rope_freqs.weight")
    short, long = (
        keys.factors("rope_factors_short.weight"),
        keys.factors("rope_factors_long.weight"),
    )
    if factors is not None or short is not None or long is not None:
        keys.require(
            kind in ("none", "longrope"), "rope.scaling.type", "be none beside rope factors"
        )
        # One divisor per pair of channels (the llama3 kind, written out) is a longrope whose two
        # sets are the same.
        scaling: Config = {
            "rope_type": "longrope",
            "short_factor": short or factors,
            "long_factor": long or factors,
            "attention_factor": keys.number("rope.scaling.attn_factor", 1.0),
        }
        if original:
            scaling["original_max_position_embeddings"] = original
        return scaling
    if kind == "linear" and factor != 1:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _read_yarn(keys, factor, original)
    keys.require(kind != "longrope", "rope.scaling.type", "come with rope_factors_short.weight")
    return None


def _read_yarn(keys: GgufKeys, factor: float, original: int) -> Config:
    scaling: Config = {"rope_type": "yarn", "factor": factor}
    if original:
        scaling["original_max_position_embeddings"] = original
    for key, name in (
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
    ):
        if keys.has(key):
            scaling[name] = keys.number(key)
    return scaling


def _fraction(rotary_dim: int, head_dim: int) -> float:
    """The share that gives this number of channels again, cut to a whole number."""
    fraction = rotary_dim / head_dim
    return fraction if int(head_dim * fraction) == rotary_dim else math.nextafter(fraction, 2)


def with_class(class_name: str, model_type: str, config: Mapping[str, Any]) -> Config:
    """The config of a class."""
    return {"architectures": [class_name], "model_type": model_type, **config}
