"""What each architecture of GGUF is as a class of Hugging Face: its config, its tensor names.

An architecture here is what the file's `general.architecture` says. Values that llama.cpp knows by
architecture alone, and the file leaves unsaid, are written out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shoal.checkpoint import gguf_tensors as change
from shoal.checkpoint.gguf_config import (
    Config,
    plain_head_dim,
    read_decoder,
    read_head_dim,
    read_rope,
    with_class,
)
from shoal.checkpoint.gguf_keys import GgufKeys
from shoal.checkpoint.gguf_tensors import TensorNames

_RMS, _LAYER_NORM = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """One value of `general.architecture`."""

    config: Callable[[GgufKeys], Config]
    """Raises ModelFolderError that names the key."""
    names: TensorNames


# --- Llama and what is like it --------------------------------------------------------------------

_LLAMA_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_PERMUTED = {"attn_q": change.unpermuted_q, "attn_k": change.unpermuted_k}


def _llama_like(
    layer: Mapping[str, str] | None = None, changes: Mapping[str, change.Change] | None = None
) -> TensorNames:
    names = {**_LLAMA_LAYER, **(layer or {})}
    return TensorNames(_LLAMA_TOP, "model.layers.{layer}.", names, changes or {})


def _rms_decoder(keys: GgufKeys, head_dim: int) -> Config:
    """RMS norms and all channels rotated."""
    return {
        **read_decoder(keys),
        **read_rope(keys, head_dim),
        "rms_norm_eps": keys.number(_RMS),
        "hidden_act": "silu",
    }


def _llama(keys: GgufKeys) -> Config:
    head_dim = read_head_dim(keys)
    return with_class(
        "LlamaForCausalLM",
        "llama",
        {
            **_rms_decoder(keys, head_dim),
            "head_dim": head_dim,
            "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
            "mlp_bias": keys.has_tensor("blk.0.ffn_up.bias"),
        },
    )


def _qwen2(keys: GgufKeys) -> Config:
    return with_class("Qwen2ForCausalLM", "qwen2", _rms_decoder(keys, plain_head_dim(keys)))


def _qwen3(keys: GgufKeys) -> Config:
    head_dim = read_head_dim(keys)
    config = {
        **_rms_decoder(keys, head_dim),
        "head_dim": head_dim,
        "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
    }
    return with_class("Qwen3ForCausalLM", "qwen3", config)


# --- GPT-2, Phi -----------------------------------------------------------------------------------


def _gpt2(keys: GgufKeys) -> Config:
    plain_head_dim(keys)
    decoder = read_decoder(keys, kv_heads=False)
    config = {
        "n_embd": decoder["hidden_size"],
        "n_layer": decoder["num_hidden_layers"],
        "n_head": decoder["num_attention_heads"],
        "n_inner": decoder["intermediate_size"],
        "n_positions": decoder["max_position_embeddings"],
        "vocab_size": decoder["vocab_size"],
        "layer_norm_epsilon": keys.number(_LAYER_NORM),
        "activation_function": "gelu_new",
        "tie_word_embeddings": decoder["tie_word_embeddings"],
    }
    return with_class("GPT2LMHeadModel", "gpt2", config)


def _phi2(keys: GgufKeys) -> Config:
    config = {
        **read_decoder(keys),
        **read_rope(keys, plain_head_dim(keys), fraction="partial_rotary_factor"),
        "layer_norm_eps": keys.number(_LAYER_NORM),
        "hidden_act": "gelu_new",
    }
    return with_class("PhiForCausalLM", "phi", config)


GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": GgufArchitecture(_llama, _llama_like(changes=_PERMUTED)),
    "qwen2": GgufArchitecture(_qwen2, _llama_like()),
    "qwen3": GgufArchitecture(_qwen3, _llama_like(_QK_NORMS)),
    "gpt2": GgufArchitecture(
        _gpt2,
        TensorNames(
            {
                "token_embd": "transformer.wte",
                "position_embd": "transformer.wpe",
                "output_norm": "transformer.ln_f",
                "output": "lm_head",
            },
            "transformer.h.{layer}.",
            {
                "attn_norm": "ln_1",
                "attn_qkv": "attn.c_attn",
                "attn_output": "attn.c_proj",
                "ffn_norm": "ln_2",
                "ffn_up": "mlp.c_fc",
                "ffn_down": "mlp.c_proj",
            },
            dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), change.transposed),
        ),
    ),
    "phi2": GgufArchitecture(
        _phi2,
        TensorNames(
            {**_LLAMA_TOP, "output_norm": "model.final_layernorm"},
            "model.layers.{layer}.",
            {
                "attn_norm": "input_layernorm",
                "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj",
                "attn_qkv": "self_attn.q_proj+self_attn.k_proj+self_attn.v_proj",
                "attn_output": "self_attn.dense",
                "ffn_up": "mlp.fc1",
                "ffn_down": "mlp.fc2",
            },
        ),
    ),
}
"""`general.architecture` -> what it is."""
