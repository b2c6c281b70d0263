"""Rotary frequencies of a config, scaling included. No torch here.

Plain: RoFormer (Su et al., 2021). linear: positions divided. llama3: long waves divided, short
ones kept, blended between (Llama 3.1). yarn: Peng et al., 2023. dynamic: what it changes with the
sequence's length begins beyond `max_position_embeddings`, where no sequence gets here; so plain.
"""

import math
from typing import NamedTuple

from shoal.checkpoint.fields import Fields

_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


class Rope(NamedTuple):
    """How queries and keys turn."""

    inv_freq: tuple[float, ...]
    """[head_size / 2], radians per position."""
    attention_scale: float = 1.0
    """Factor on cos and sin."""


def read_rope(fields: Fields, head_size: int, max_positions: int) -> Rope:
    """From `rope_theta` and `rope_scaling`, or the newer `rope_parameters` that holds both."""
    newer = fields.object("rope_parameters")
    scaling = fields.object("rope_scaling") or newer
    with_theta = newer if newer is not None and newer.get("rope_theta") is not None else fields
    theta = with_theta.number("rope_theta", 10_000.0)
    with_theta.require(theta > 1, "rope_theta", "be above 1")
    plain = [theta ** (-2.0 * pair / head_size) for pair in range(head_size // 2)]
    if scaling is None:
        return Rope(tuple(plain))
    for part in (fields, scaling):
        whole = part.number("partial_rotary_factor", 1.0) == 1.0
        part.require(whole, "partial_rotary_factor", "be 1")
    old_name = scaling.get("rope_type") is None and scaling.get("type") is not None
    match scaling.word("type" if old_name else "rope_type", "default", _KINDS):
        case "linear":
            factor = scaling.number("factor")
            return Rope(tuple(freq / factor for freq in plain))
        case "llama3":
            return Rope(_llama3(plain, scaling))
        case "yarn":
            return _yarn(plain, scaling, theta, max_positions)
    return Rope(tuple(plain))


def _llama3(plain: list[float], scaling: Fields) -> tuple[float, ...]:
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    scaling.require(low < high, "low_freq_factor", "be below high_freq_factor")
    original = scaling.size("original_max_position_embeddings")

    def scaled(freq: float) -> float:
        turns = original * freq / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return freq * (kept + (1 - kept) / factor)

    return tuple(scaled(freq) for freq in plain)


def _yarn(plain: list[float], scaling: Fields, theta: float, max_positions: int) -> Rope:
    head_size = 2 * len(plain)
    original = scaling.size("original_max_position_embeddings", max_positions)
    factor = scaling.number("factor", max_positions / original)

    def pair_of(turns: float) -> float:
        """The pair of channels that makes so many turns over the original length."""
        return head_size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = pair_of(scaling.number("beta_fast", 32.0))
    high = pair_of(scaling.number("beta_slow", 1.0))
    if scaling.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    width = high - low if high != low else 0.001
    ramps = [min(1.0, max(0.0, (pair - low) / width)) for pair in range(len(plain))]
    scaled = [freq * (1 - ramp + ramp / factor) for freq, ramp in zip(plain, ramps, strict=True)]
    return Rope(tuple(scaled), _yarn_attention_scale(scaling, factor))


def _yarn_attention_scale(scaling: Fields, factor: float) -> float:
    if scaling.get("attention_factor") is not None:
        return scaling.number("attention_factor")

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        above, below = scaling.number("mscale"), scaling.number("mscale_all_dim")
        return magnitude(above) / magnitude(below)
    return magnitude(1.0)
