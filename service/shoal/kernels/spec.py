"""What the native library needs to know of a network; numbers only, no framework, no files."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]
Dtype = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder of the Llama family (RMS norm, gated MLP) or GPT-2's (layer norm, plain MLP).

    Field names are those of `model.config.ModelConfig`, so one is built from the other.
    """

    architecture: Literal["llama", "gpt2"]
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
    activation: Activation = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    """A token sees only so many positions back, itself included."""
    inv_freq: tuple[float, ...] = ()
    """Rotary frequency per pair of channels, scaling included; empty for learned positions."""
    rope_attention_scale: float = 1.0
    """Factor on cosines and sines (yarn)."""
    query_key_norm: bool = False
    """RMS norm of each query and key head before rotation (Qwen 3)."""
    attention_soft_cap: float | None = None
    """Scores become cap * tanh(score / cap) (Gemma 2)."""

    @property
    def query_size(self) -> int:
        """Channels of all query heads."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Channels of all key heads; as many of all value heads."""
        return self.num_kv_heads * self.head_size
