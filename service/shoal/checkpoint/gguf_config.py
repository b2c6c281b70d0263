"""Metadata of a GGUF file as a config with Hugging Face's keys.

Here is what architectures share; the table of them is in `gguf_architectures.py`. The config says
everything explicitly that the format knows by architecture alone.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.checkpoint.gguf_keys import GgufKeys
from shoal.checkpoint.gguf_tensors import TensorNames

Config = dict[str, Any]

RMS_EPS, LAYER_NORM_EPS = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """One value of `general.architecture`: what it is as a class of Hugging Face."""

    config: Callable[[GgufKeys], Config]
    """Raises ModelFolderError that names the key."""
    names: TensorNames
    names_if: tuple[str, TensorNames] | None = None
    """The names of a variant, which is told by a tensor that it has."""

    def names_of(self, keys: GgufKeys) -> TensorNames:
        """The names in this file."""
        if self.names_if is not None and keys.has_tensor(self.names_if[0]):
            return self.names_if[1]
        return self.names


def read_decoder(keys: GgufKeys) -> Config:
    """Sizes that every architecture has, under the names that most families have."""
    num_layers = keys.size("block_count")
    is_possible = num_layers <= keys.num_tensors
    keys.require(is_possible, "block_count", f"not be above {keys.num_tensors}, all tensors")
    return {
        "hidden_size": keys.size("embedding_length"),
        "num_hidden_layers": num_layers,
        "intermediate_size": keys.size("feed_forward_length"),
        "num_attention_heads": keys.size("attention.head_count"),
        "max_position_embeddings": keys.size("context_length"),
        "vocab_size": read_vocab_size(keys),
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }


def read_kv_heads(keys: GgufKeys) -> int:
    """As many as there are heads where the file does not say."""
    return keys.size("attention.head_count_kv", keys.size("attention.head_count"))


def refuse_grouped_heads(keys: GgufKeys) -> None:
    """Of an architecture where every head has keys and values of its own."""
    num_heads = keys.size("attention.head_count")
    keys.require(read_kv_heads(keys) == num_heads, "attention.head_count_kv", f"be {num_heads}")


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
