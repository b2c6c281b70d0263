"""A model's shape from its Hugging Face `config.json`, checked. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shoal.checkpoint.fields import Fields
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.model.rope import read_rope

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


def read_config(folder: Path) -> ModelConfig:
    """Raises ModelFolderError that names file, field and value."""
    files = open_model(folder)
    return parse_config(dict(files.config), files.name)


def parse_config(fields: dict[str, Any], name: str) -> ModelConfig:
    """The same for a config that was read already; `name` is used in errors."""
    reader = Fields(fields, f"{name}/config.json")
    kinds = fields.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else None
    if isinstance(kind, str) and kind in LLAMA_KIN:
        return _llama(reader, kind)
    if kind in ("GPT2LMHeadModel", "GPT2Model"):
        return _gpt2(reader)
    known = ", ".join([*LLAMA_KIN, "GPT2LMHeadModel"])
    raise ModelFolderError(f"{name}/config.json: architecture {kind!r:.80} is none of {known}")


def _llama(fields: Fields, kind: str) -> ModelConfig:
    hidden_size = fields.size("hidden_size")
    num_heads = fields.size("num_attention_heads")
    num_kv_heads = fields.size("num_key_value_heads", num_heads)
    fields.require(num_heads % num_kv_heads == 0, "num_key_value_heads", "divide the heads")
    if fields.get("head_dim") is None:
        fields.require(hidden_size % num_heads == 0, "num_attention_heads", "divide hidden_size")
    head_size = fields.size("head_dim", hidden_size // num_heads)
    fields.require(head_size % 2 == 0, "head_dim", "be even")
    max_positions = fields.size("max_position_embeddings")
    bias = fields.flag("attention_bias", False)
    rope = read_rope(fields, head_size, max_positions)
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
        activation=_activation(fields, "hidden_act", "silu"),
        qkv_bias=bias or LLAMA_KIN[kind],
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        sliding_window=_sliding_window(fields, kind, max_positions),
        inv_freq=rope.inv_freq,
        rope_attention_scale=rope.attention_scale,
    )


def _sliding_window(fields: Fields, kind: str, max_positions: int) -> int | None:
    """One window for all layers, or none; some layers with and some without are refused."""
    is_used = fields.flag("use_sliding_window", kind == "MistralForCausalLM")
    if kind == "LlamaForCausalLM" or not is_used or fields.get("sliding_window") is None:
        return None
    window = fields.size("sliding_window")
    layers = fields.get("layer_types")
    num_layers = fields.size("num_hidden_layers")
    if layers is not None:
        known = isinstance(layers, list) and len(layers) == num_layers
        fields.require(known, "layer_types", "name every layer")
        num_full = sum(layer != "sliding_attention" for layer in layers)
        name = "layer_types"
    elif kind == "Qwen2ForCausalLM" and fields.get("max_window_layers") != 0:
        name = "max_window_layers"  # so many layers at the beginning have no window
        num_full = min(num_layers, fields.size(name, 28))
    else:
        num_full, name = 0, "sliding_window"
    if num_full == num_layers or window >= max_positions:
        return None
    fields.require(num_full == 0, name, "give a window to all layers or to none")
    return window


def _gpt2(fields: Fields) -> ModelConfig:
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
        activation=_activation(fields, "activation_function", "gelu_new"),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        sliding_window=None,
        inv_freq=(),
        rope_attention_scale=1.0,
    )


def _activation(fields: Fields, name: str, default: str) -> Activation:
    return _ACTIVATIONS[fields.word(name, default, _ACTIVATIONS)]
