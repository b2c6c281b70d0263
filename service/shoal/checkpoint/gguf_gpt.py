"""Architectures of GGUF with names of their own: GPT-2, Phi 2, GPT-NeoX, BLOOM, Falcon, Starcoder 2
and LFM2. Values that the file leaves unsaid are written out."""

from collections.abc import Mapping
from dataclasses import replace

from shoal.checkpoint import gguf_tensors as change
from shoal.checkpoint.gguf_config import (
    LAYER_NORM_EPS,
    RMS_EPS,
    Config,
    GgufArchitecture,
    plain_head_dim,
    read_decoder,
    read_kv_heads,
    read_rope,
    refuse_grouped_heads,
    with_class,
)
from shoal.checkpoint.gguf_keys import GgufKeys
from shoal.checkpoint.gguf_llama import LLAMA_LAYER, LLAMA_PREFIX, LLAMA_TOP
from shoal.checkpoint.gguf_tensors import TensorNames

_GPT_TOP = {
    "token_embd": "transformer.word_embeddings",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT_PREFIX = "transformer.h.{layer}."
_FUSED_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_BY_KV_HEAD = {"attn_qkv": change.qkv_by_kv_head}


def _gpt2(keys: GgufKeys) -> Config:
    plain_head_dim(keys)
    refuse_grouped_heads(keys)
    decoder = read_decoder(keys)
    config = {
        "n_embd": decoder["hidden_size"],
        "n_layer": decoder["num_hidden_layers"],
        "n_head": decoder["num_attention_heads"],
        "n_inner": decoder["intermediate_size"],
        "n_positions": decoder["max_position_embeddings"],
        "vocab_size": decoder["vocab_size"],
        "layer_norm_epsilon": keys.number(LAYER_NORM_EPS),
        "activation_function": "gelu_new",
        "tie_word_embeddings": decoder["tie_word_embeddings"],
    }
    return with_class("GPT2LMHeadModel", "gpt2", config)


def _phi2(keys: GgufKeys) -> Config:
    config = {
        **read_decoder(keys),
        **read_rope(keys, plain_head_dim(keys), fraction="partial_rotary_factor"),
        "num_key_value_heads": read_kv_heads(keys),
        "layer_norm_eps": keys.number(LAYER_NORM_EPS),
        "hidden_act": "gelu_new",
    }
    return with_class("PhiForCausalLM", "phi", config)


def _gptneox(keys: GgufKeys) -> Config:
    refuse_grouped_heads(keys)
    rope = read_rope(keys, plain_head_dim(keys), theta="rotary_emb_base", fraction="rotary_pct")
    config = {
        **read_decoder(keys),
        **rope,
        "layer_norm_eps": keys.number(LAYER_NORM_EPS),
        "hidden_act": "gelu",
        "use_parallel_residual": keys.flag("use_parallel_residual", True),
    }
    return with_class("GPTNeoXForCausalLM", "gpt_neox", config)


def _bloom(keys: GgufKeys) -> Config:
    plain_head_dim(keys)
    refuse_grouped_heads(keys)
    decoder = read_decoder(keys)
    hidden = decoder["hidden_size"]
    is_fixed = decoder["intermediate_size"] == 4 * hidden
    keys.require(is_fixed, "feed_forward_length", f"be {4 * hidden}, four times the width")
    config = {
        "hidden_size": hidden,
        "n_layer": decoder["num_hidden_layers"],
        "n_head": decoder["num_attention_heads"],
        "seq_length": decoder["max_position_embeddings"],
        "vocab_size": decoder["vocab_size"],
        "layer_norm_epsilon": keys.number(LAYER_NORM_EPS),
        "tie_word_embeddings": decoder["tie_word_embeddings"],
    }
    return with_class("BloomForCausalLM", "bloom", config)


def _falcon(keys: GgufKeys) -> Config:
    decoder, num_kv_heads = read_decoder(keys), read_kv_heads(keys)
    has_two_norms = keys.has_tensor("blk.0.attn_norm_2.weight")
    is_new = has_two_norms or num_kv_heads not in (1, decoder["num_attention_heads"])
    config = {
        **read_rope(keys, plain_head_dim(keys)),
        "hidden_size": decoder["hidden_size"],
        "num_hidden_layers": decoder["num_hidden_layers"],
        "num_attention_heads": decoder["num_attention_heads"],
        "num_kv_heads": num_kv_heads,
        "ffn_hidden_size": decoder["intermediate_size"],
        "max_position_embeddings": decoder["max_position_embeddings"],
        "vocab_size": decoder["vocab_size"],
        "tie_word_embeddings": decoder["tie_word_embeddings"],
        "layer_norm_epsilon": keys.number(LAYER_NORM_EPS),
        "activation": "gelu",
        "new_decoder_architecture": is_new,
        "multi_query": num_kv_heads == 1 and not is_new,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
    }
    if is_new:
        config["num_ln_in_parallel_attn"] = 2 if has_two_norms else 1
    return with_class("FalconForCausalLM", "falcon", config)


def _starcoder2(keys: GgufKeys) -> Config:
    config = {
        **read_decoder(keys),
        **read_rope(keys, plain_head_dim(keys)),
        "num_key_value_heads": read_kv_heads(keys),
        "norm_epsilon": keys.number(LAYER_NORM_EPS),
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": keys.has_tensor("blk.0.attn_q.bias"),
    }
    return with_class("Starcoder2ForCausalLM", "starcoder2", config)


def _lfm2(keys: GgufKeys) -> Config:
    """Layers without key heads are convolutions."""
    decoder = read_decoder(keys)
    kv_heads = keys.sizes("attention.head_count_kv", decoder["num_hidden_layers"])
    different = {count for count in kv_heads if count}
    is_known = len(different) == 1
    keys.require(is_known, "attention.head_count_kv", "be 0 or the same for every layer")
    config = {
        **decoder,
        **read_rope(keys, plain_head_dim(keys)),
        "num_key_value_heads": max(kv_heads),
        "layer_types": ["full_attention" if count else "conv" for count in kv_heads],
        "norm_eps": keys.number(RMS_EPS),
        "conv_L_cache": keys.size("shortconv.l_cache"),
        "conv_bias": keys.has_tensor("blk.0.shortconv.conv.bias"),
        "block_auto_adjust_ff_dim": False,
    }
    return with_class("Lfm2ForCausalLM", "lfm2", config)


_FALCON = TensorNames(_GPT_TOP, _GPT_PREFIX, _FUSED_LAYER, _BY_KV_HEAD)

GPT_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "gpt2": GgufArchitecture(
        _gpt2,
        TensorNames(
            {
                "token_embd": "transformer.wte",
                "position_embd": "transformer.wpe",
                "output_norm": "transformer.ln_f",
                "output": "lm_head",
            },
            _GPT_PREFIX,
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
            {**LLAMA_TOP, "output_norm": "model.final_layernorm"},
            LLAMA_PREFIX,
            {
                **LLAMA_LAYER,
                "attn_qkv": "self_attn.q_proj+self_attn.k_proj+self_attn.v_proj",
                "attn_output": "self_attn.dense",
                "ffn_up": "mlp.fc1",
                "ffn_down": "mlp.fc2",
            },
        ),
    ),
    "gptneox": GgufArchitecture(
        _gptneox,
        TensorNames(
            {
                "token_embd": "gpt_neox.embed_in",
                "output_norm": "gpt_neox.final_layer_norm",
                "output": "embed_out",
            },
            "gpt_neox.layers.{layer}.",
            {
                **_FUSED_LAYER,
                "attn_qkv": "attention.query_key_value",
                "attn_output": "attention.dense",
            },
            _BY_KV_HEAD,
        ),
    ),
    "bloom": GgufArchitecture(
        _bloom,
        TensorNames(
            {**_GPT_TOP, "token_embd_norm": "transformer.word_embeddings_layernorm"},
            _GPT_PREFIX,
            _FUSED_LAYER,
            _BY_KV_HEAD,
        ),
    ),
    "falcon": GgufArchitecture(
        _falcon,
        _FALCON,
        (
            "blk.0.attn_norm_2.weight",
            replace(
                _FALCON, layer={**_FUSED_LAYER, "attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"}
            ),
        ),
    ),
    "starcoder2": GgufArchitecture(
        _starcoder2,
        TensorNames(
            LLAMA_TOP,
            LLAMA_PREFIX,
            {**LLAMA_LAYER, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        ),
    ),
    "lfm2": GgufArchitecture(
        _lfm2,
        TensorNames(
            {
                "token_embd": "model.embed_tokens",
                "token_embd_norm": "model.embedding_norm",  # of the output, whatever its name
                "output_norm": "model.embedding_norm",
                "output": "lm_head",
            },
            LLAMA_PREFIX,
            {
                **LLAMA_LAYER,
                "attn_norm": "operator_norm",
                "attn_q_norm": "self_attn.q_layernorm",
                "attn_k_norm": "self_attn.k_layernorm",
                "attn_output": "self_attn.out_proj",
                "shortconv.conv": "conv.conv",
                "shortconv.in_proj": "conv.in_proj",
                "shortconv.out_proj": "conv.out_proj",
                "ffn_norm": "ffn_norm",
                "ffn_gate": "feed_forward.w1",
                "ffn_up": "feed_forward.w3",
                "ffn_down": "feed_forward.w2",
            },
            {"shortconv.conv": change.one_channel},
        ),
    ),
}
