"""Rotary positions of a config, scaling included.

Plain: RoFormer (Su et al., 2021). linear: positions divided. llama3: long waves divided, short
ones kept, blended between (Llama 3.1). yarn: Peng et al., 2023. proportional: only the fastest
pairs of channels are rotated. dynamic: it changes the frequencies of sequences longer than
`max_position_embeddings`; Shoal serves none, so it equals plain. longrope (Ding et al., 2024): one
divisor per pair, in one set for short sequences and one for long. The set is chosen once per loaded
model, by the longest sequence that will be served: a set that changed while a sequence grows would
invalidate its cached keys, and its numbers would depend on how it was chunked.

`rope_parameters` (transformers 5) and `rope_scaling` (before) hold the same settings. What is
missing there is read from the top level of the config.
"""

import math
from typing import NamedTuple

from shoal.checkpoint.fields import Fields
from shoal.model.spec import RotarySpec

_KEYS_OF = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor"),
    "proportional": ("factor",),
}
"""rope_type -> the keys it uses, beside those that every kind uses."""
_SCALING_KEYS = {key for keys in _KEYS_OF.values() for key in keys}


class _Rope(NamedTuple):
    """The settings a kind computes its frequencies from."""

    config: Fields
    scaling: Fields
    """`rope_parameters` or `rope_scaling`, or an empty object."""
    theta: float
    fraction: float
    """Share of a head's channels that is rotated."""
    head_dim: int
    rotary_dim: int
    """Channels of a head that are rotated."""
    max_position_embeddings: int
    max_model_len: int

    @property
    def plain(self) -> list[float]:
        """[rotary_dim / 2], radians per position."""
        pairs = range(self.rotary_dim // 2)
        return [self.theta ** (-2.0 * pair / self.rotary_dim) for pair in pairs]

    @property
    def original_length(self) -> int:
        """Context length before scaling; the top level of the config goes first, as in
        transformers."""
        key = "original_max_position_embeddings"
        inner = self.scaling.size(key, self.max_position_embeddings)
        return self.config.size(key, inner)


def read_rotary(
    config: Fields,
    *,
    head_dim: int,
    max_position_embeddings: int,
    max_model_len: int | None = None,
    default_fraction: float = 1.0,
    default_theta: float = 10_000.0,
) -> RotarySpec:
    """`max_model_len`: longest sequence that will be served, None for the model's own;
    `default_fraction`: share of a head's channels that is rotated;
    `default_theta`: base of the frequencies. Raises ModelFolderError."""
    scaling = _scaling(config)
    theta_at = _inner_first(config, scaling, "rope_theta")
    theta = theta_at.number("rope_theta", default_theta)
    theta_at.require(theta > 1, "rope_theta", "be above 1")
    kind = _kind(scaling)
    fraction_at = _inner_first(config, scaling, "partial_rotary_factor")
    fraction = fraction_at.number("partial_rotary_factor", default_fraction)
    fraction_at.require(fraction <= 1, "partial_rotary_factor", "be at most 1")
    rotary_dim = head_dim if kind == "proportional" else int(head_dim * fraction)
    if rotary_dim == head_dim:
        config.require(head_dim % 2 == 0, "head_dim", "be even")
    is_usable = rotary_dim > 0 and rotary_dim % 2 == 0
    fraction_at.require(is_usable, "partial_rotary_factor", "rotate an even number of channels")
    longest = min(max_model_len or max_position_embeddings, max_position_embeddings)
    rope = _Rope(
        config, scaling, theta, fraction, head_dim, rotary_dim, max_position_embeddings, longest
    )
    _refuse_foreign_keys(scaling, kind)
    match kind:
        case "linear":
            factor = scaling.number("factor")
            return RotarySpec(tuple(freq / factor for freq in rope.plain))
        case "dynamic":
            scaling.number("factor")
        case "llama3":
            return RotarySpec(_llama3(rope))
        case "yarn":
            return _yarn(rope)
        case "longrope":
            return _longrope(rope)
        case "proportional":
            return RotarySpec(_proportional(rope))
    return RotarySpec(tuple(rope.plain))


def _scaling(config: Fields) -> Fields:
    """The settings object that is not empty; two different ones are refused."""
    older, newer = config.get("rope_scaling"), config.get("rope_parameters")
    if older and newer:
        config.require(older == newer, "rope_scaling", "agree with rope_parameters")
    name = "rope_scaling" if older else "rope_parameters"
    return config.object(name) or Fields({}, "")


def _inner_first(config: Fields, scaling: Fields, key: str) -> Fields:
    """Where to read a key that may be in both: the inner one goes first, as in transformers."""
    config.get(key)  # counts as read even if the inner one is used
    return config if scaling.get(key) is None else scaling


def _kind(scaling: Fields) -> str:
    newer, older = scaling.get("rope_type"), scaling.get("type")
    if newer is not None and older is not None:
        scaling.require(newer == older, "type", "agree with rope_type")
    return scaling.word("rope_type" if older is None else "type", "default", _KEYS_OF)


def _refuse_foreign_keys(scaling: Fields, kind: str) -> None:
    """Keys of another kind, and lists or objects that no kind has (one rotation per layer type,
    sections of channels): they would change the results, so they cannot be ignored."""
    for key, value in scaling.unread().items():
        if key in _SCALING_KEYS:
            is_used = key in _KEYS_OF[kind] or value == 1
            scaling.require(is_used, key, f"be left out with rope_type {kind}")
        elif isinstance(value, dict | list):
            scaling.refuse(key, "be left out: it is not known")


def _llama3(rope: _Rope) -> tuple[float, ...]:
    scaling, original = rope.scaling, rope.original_length
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    scaling.require(low < high, "low_freq_factor", "be below high_freq_factor")

    def scaled(freq: float) -> float:
        turns = original * freq / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return freq * (kept + (1 - kept) / factor)

    return tuple(scaled(freq) for freq in rope.plain)


def _yarn(rope: _Rope) -> RotarySpec:
    scaling, original = rope.scaling, rope.original_length
    factor = scaling.number("factor", rope.max_position_embeddings / original)

    def pair_of(turns: float) -> float:
        """The pair of channels that makes so many turns over the original length."""
        waves = math.log(original / (turns * 2 * math.pi))
        return rope.rotary_dim * waves / (2 * math.log(rope.theta))

    low = pair_of(scaling.number("beta_fast", 32.0))
    high = pair_of(scaling.number("beta_slow", 1.0))
    if scaling.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = high - low if high != low else 0.001
    plain = rope.plain
    ramps = [min(1.0, max(0.0, (pair - low) / width)) for pair in range(len(plain))]
    scaled = [freq * (1 - ramp + ramp / factor) for freq, ramp in zip(plain, ramps, strict=True)]
    return RotarySpec(tuple(scaled), _yarn_magnitude(scaling, factor))


def _yarn_magnitude(scaling: Fields, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given = scaling.get("attention_factor")
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        above, below = scaling.number("mscale"), scaling.number("mscale_all_dim")
        computed = magnitude(above) / magnitude(below)
    else:
        computed = magnitude(1.0)
    return computed if given is None else scaling.number("attention_factor")


def _longrope(rope: _Rope) -> RotarySpec:
    scaling, original = rope.scaling, rope.original_length
    divisors = {
        key: scaling.numbers(key, rope.rotary_dim // 2) for key in ("short_factor", "long_factor")
    }
    factor = scaling.number("factor", rope.max_position_embeddings / original)
    magnitude = 1.0
    if factor > 1:
        scaling.require(original > 1, "original_max_position_embeddings", "be above 1")
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original))
    chosen = divisors["long_factor" if rope.max_model_len > original else "short_factor"]
    return RotarySpec(
        tuple(freq / divisor for freq, divisor in zip(rope.plain, chosen, strict=True)),
        scaling.number("attention_factor", magnitude),
    )


def _proportional(rope: _Rope) -> tuple[float, ...]:
    """Only the first pairs are rotated: the others have frequency 0."""
    num_rotated = int(rope.fraction * rope.head_dim // 2)
    factor = rope.scaling.number("factor", 1.0)
    plain = rope.plain
    return tuple(freq / factor if pair < num_rotated else 0.0 for pair, freq in enumerate(plain))
