"""A model's shape from its Hugging Face `config.json`, checked. No torch here."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shoal.errors import ModelFolderError

Architecture = Literal["llama", "gpt2"]
Activation = Literal["silu", "gelu", "gelu_tanh"]

LLAMA_KIN = {
    "LlamaForCausalLM": False,
    "MistralForCausalLM": False,
    "Qwen2ForCausalLM": True,
}
"""Class name in config.json -> whether q, k and v have biases by default."""

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
MAX_SIZE = 1 << 20
"""No width, count or length of a model this server is for comes near it."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers a network is built from."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    mlp_size: int
    max_positions: int
    norm_eps: float
    tied_embeddings: bool
    activation: Activation
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    sliding_window: int | None
    """A token sees only so many positions back, itself included."""
    inv_freq: tuple[float, ...]
    """Rotary frequencies per pair of channels, scaling included; empty for learned positions."""
    rope_attention_scale: float
    """Factor on cos and sin (yarn)."""
    dtype: str


def read_config(folder: Path) -> ModelConfig:
    """Raises ModelFolderError that names file, field and value."""
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{folder.name}/config.json cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise ModelFolderError(f"{folder.name}/config.json is not a JSON object")
    return parse_config(fields, folder.name)


def parse_config(fields: dict[str, Any], name: str) -> ModelConfig:
    """The same for a config that was read already; `name` is used in errors."""
    reader = _Fields(fields, f"{name}/config.json")
    kind = (fields.get("architectures") or [None])[0]
    if kind in LLAMA_KIN:
        return _llama(reader, qkv_bias=LLAMA_KIN[kind])
    if kind in ("GPT2LMHeadModel", "GPT2Model"):
        return _gpt2(reader)
    known = ", ".join([*LLAMA_KIN, "GPT2LMHeadModel"])
    raise ModelFolderError(f"{name}/config.json: architecture {kind!r} is none of {known}")


def _llama(fields: "_Fields", *, qkv_bias: bool) -> ModelConfig:
    hidden_size = fields.size("hidden_size")
    num_heads = fields.size("num_attention_heads")
    num_kv_heads = fields.size("num_key_value_heads", num_heads)
    head_size = fields.size("head_dim", hidden_size // num_heads)
    fields.require(num_heads % num_kv_heads == 0, "num_key_value_heads", "divide the heads")
    fields.require(head_size % 2 == 0, "head_dim", "be even")
    max_positions = fields.size("max_position_embeddings")
    bias = fields.flag("attention_bias", False)
    inv_freq, attention_scale = rotary_frequencies(fields, head_size, max_positions)
    window = fields.get("sliding_window")
    return ModelConfig(
        architecture="llama",
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden_size,
        num_layers=fields.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        mlp_size=fields.size("intermediate_size"),
        max_positions=max_positions,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        activation=fields.activation("hidden_act", "silu"),
        qkv_bias=qkv_bias or bias,
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        sliding_window=window if window and fields.flag("use_sliding_window", True) else None,
        inv_freq=inv_freq,
        rope_attention_scale=attention_scale,
        dtype=fields.dtype(),
    )


def _gpt2(fields: "_Fields") -> ModelConfig:
    hidden_size = fields.size("n_embd")
    num_heads = fields.size("n_head")
    fields.require(hidden_size % num_heads == 0, "n_head", "divide n_embd")
    for flag in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        fields.require(not fields.flag(flag, False), flag, "be false")
    fields.require(fields.flag("scale_attn_weights", True), "scale_attn_weights", "be true")
    return ModelConfig(
        architecture="gpt2",
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden_size,
        num_layers=fields.size("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=hidden_size // num_heads,
        mlp_size=fields.size("n_inner", 4 * hidden_size),
        max_positions=fields.size("n_positions"),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        activation=fields.activation("activation_function", "gelu_new"),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        sliding_window=None,
        inv_freq=(),
        rope_attention_scale=1.0,
        dtype=fields.dtype(),
    )


def rotary_frequencies(
    fields: "_Fields", head_size: int, max_positions: int
) -> tuple[tuple[float, ...], float]:
    """Inverse frequencies [head_size / 2] with scaling, and the factor on cos and sin.

    Plain: RoFormer (Su et al., 2021). linear: positions divided. llama3: long waves divided,
    short ones kept, blended between (Llama 3.1). yarn: Peng et al., 2023.
    """
    scaling = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    theta = float(scaling.get("rope_theta") or fields.number("rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    plain = [theta ** (-2.0 * i / head_size) for i in range(head_size // 2)]
    factor = float(scaling.get("factor", 1.0))
    match kind:
        case "default":
            return tuple(plain), 1.0
        case "linear":
            return tuple(freq / factor for freq in plain), 1.0
        case "llama3":
            return tuple(_llama3_freq(freq, scaling, factor) for freq in plain), 1.0
        case "yarn":
            return _yarn(plain, scaling, factor, theta, head_size, max_positions)
        case _:
            fields.require(False, "rope_scaling", "be default, linear, llama3 or yarn")
            raise AssertionError("require(False) raises")


def _llama3_freq(freq: float, scaling: dict[str, Any], factor: float) -> float:
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original = float(scaling["original_max_position_embeddings"])
    turns = original * freq / (2 * math.pi)
    if turns < low:
        return freq / factor
    if turns > high:
        return freq
    blend = (turns - low) / (high - low)
    return (1 - blend) * freq / factor + blend * freq


def _yarn(
    plain: list[float],
    scaling: dict[str, Any],
    factor: float,
    theta: float,
    head_size: int,
    max_positions: int,
) -> tuple[tuple[float, ...], float]:
    original = float(scaling.get("original_max_position_embeddings") or max_positions)

    def channel(turns: float) -> float:
        """The channel pair that makes so many turns over the original length."""
        return head_size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = channel(float(scaling.get("beta_fast") or 32))
    high = channel(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    width = high - low if high != low else 0.001
    freqs = []
    for i, freq in enumerate(plain):
        ramp = min(1.0, max(0.0, (i - low) / width))
        freqs.append(freq / factor * ramp + freq * (1 - ramp))
    return tuple(freqs), _yarn_scale(scaling, factor)


def _yarn_scale(scaling: dict[str, Any], factor: float) -> float:
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(float(scaling["mscale"])) / mscale(float(scaling["mscale_all_dim"]))
    return mscale(1.0)


class _Fields:
    """Typed access to config.json with errors that name file, field and value."""

    def __init__(self, fields: dict[str, Any], file: str) -> None:
        self._fields = fields
        self._file = file

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def size(self, name: str, default: int | None = None) -> int:
        value = self._fields.get(name)
        if value is None:
            value = default
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not 1 <= int(value or 0) <= MAX_SIZE:
            self._refuse(name, f"be a whole number from 1 to {MAX_SIZE}")
        return int(value or 0)

    def number(self, name: str, default: float) -> float:
        value = self._fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
            self._refuse(name, "be a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._fields.get(name)
        if value is None:
            return default
        self.require(isinstance(value, bool), name, "be true or false")
        return bool(value)

    def activation(self, name: str, default: str) -> Activation:
        value = self._fields.get(name, default)
        self.require(value in _ACTIVATIONS, name, f"be one of {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def dtype(self) -> str:
        return str(self._fields.get("dtype") or self._fields.get("torch_dtype") or "float32")

    def require(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            self._refuse(name, rule)

    def _refuse(self, name: str, rule: str) -> None:
        value = repr(self._fields.get(name))[:80]
        raise ModelFolderError(f"{self._file}: {name} must {rule}; it is {value}")
