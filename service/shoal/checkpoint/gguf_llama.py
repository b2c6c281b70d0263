"""Architectures of GGUF whose tensors are named like Llama's.

Values that llama.cpp knows by architecture alone, and the file leaves unsaid, are written out.
"""

from collections.abc import Mapping

from shoal.checkpoint import gguf_tensors as change
from shoal.checkpoint.gguf_config import (
    LAYER_NORM_EPS,
    RMS_EPS,
    Config,
    GgufArchitecture,
    plain_head_dim,
    read_decoder,
    read_head_dim,
    read_kv_heads,
    read_rope,
    with_class,
)
from shoal.checkpoint.gguf_keys import GgufKeys
from shoal.checkpoint.gguf_tensors import TensorNames

LLAMA_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LLAMA_PREFIX = "model.layers.{layer}."
LLAMA_LAYER = {
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
_POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{index}.gate_proj",
    "ffn_up_exps": "mlp.experts.{index}.up_proj",
    "ffn_down_exps": "mlp.experts.{index}.down_proj",
}
_PERMUTED = {"attn_q": change.unpermuted_q, "attn_k": change.unpermuted_k}
_GEMMA_NORMS = dict.fromkeys(
    ("output_norm", "attn_norm", "ffn_norm", *_QK_NORMS, *_POST_NORMS), change.without_one
)


def _names(
    layer: Mapping[str, str] | None = None, changes: Mapping[str, change.Change] | None = None
) -> TensorNames:
    return TensorNames(LLAMA_TOP, LLAMA_PREFIX, {**LLAMA_LAYER, **(layer or {})}, changes or {})


# --- RMS norms, gated MLP, all channels rotated ---------------------------------------------------


def _decoder(keys: GgufKeys, head_dim: int) -> Config:
    return {
        **read_decoder(keys),
        **read_rope(keys, head_dim),
        "num_key_value_heads": read_kv_heads(keys),
        "rms_norm_eps": keys.number(RMS_EPS),
        "hidden_act": "silu",
    }


def _own_head_dim(keys: GgufKeys) -> Config:
    head_dim = read_head_dim(keys)
    return {**_decoder(keys, head_dim), "head_dim": head_dim}


def _biases(keys: GgufKeys) -> Config:
    return {
        "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": keys.has_tensor("blk.0.ffn_up.bias"),
    }


def _llama(keys: GgufKeys) -> Config:
    return with_class("LlamaForCausalLM", "llama", {**_own_head_dim(keys), **_biases(keys)})


def _qwen2(keys: GgufKeys) -> Config:
    return with_class("Qwen2ForCausalLM", "qwen2", _decoder(keys, plain_head_dim(keys)))


def _qwen3(keys: GgufKeys) -> Config:
    bias = keys.has_tensor("blk.0.attn_q.bias")
    config = {**_own_head_dim(keys), "attention_bias": bias}
    return with_class("Qwen3ForCausalLM", "qwen3", config)


def _smollm3(keys: GgufKeys) -> Config:
    config = {
        **_decoder(keys, plain_head_dim(keys)),
        **_biases(keys),
        "no_rope_layer_interval": 4,
    }
    return with_class("SmolLM3ForCausalLM", "smollm3", config)


def _granite(keys: GgufKeys) -> Config:
    head_dim = plain_head_dim(keys)
    config = {
        **_decoder(keys, head_dim),
        **_biases(keys),
        "attention_multiplier": keys.optional_number("attention.scale") or head_dim**-0.5,
        "embedding_multiplier": keys.optional_number("embedding_scale") or 1.0,
        "residual_multiplier": keys.optional_number("residual_scale") or 1.0,
        "logits_scaling": keys.optional_number("logit_scale") or 1.0,
    }
    return with_class("GraniteForCausalLM", "granite", config)


def _ernie4_5(keys: GgufKeys) -> Config:
    config = {**_own_head_dim(keys), "use_bias": keys.has_tensor("blk.0.attn_q.bias")}
    return with_class("Ernie4_5ForCausalLM", "ernie4_5", config)


def _hunyuan_dense(keys: GgufKeys) -> Config:
    config = {**_own_head_dim(keys), "attention_bias": keys.has_tensor("blk.0.attn_q.bias")}
    return with_class("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", config)


def _phi3(keys: GgufKeys) -> Config:
    window = keys.count("attention.sliding_window", 0)
    config = {
        **read_decoder(keys),
        **read_rope(keys, plain_head_dim(keys), fraction="partial_rotary_factor"),
        "num_key_value_heads": read_kv_heads(keys),
        "rms_norm_eps": keys.number(RMS_EPS),
        "hidden_act": "silu",
        "sliding_window": window or None,
    }
    # Where longrope begins stands beside its settings in this family.
    original = config.get("rope_scaling", {}).pop("original_max_position_embeddings", None)
    if original is not None:
        config["original_max_position_embeddings"] = original
    return with_class("Phi3ForCausalLM", "phi3", config)


# --- Gemma ----------------------------------------------------------------------------------------


def _gemma(keys: GgufKeys) -> Config:
    config = {**_own_head_dim(keys), "hidden_act": "gelu_pytorch_tanh"}
    return with_class("GemmaForCausalLM", "gemma", config)


def _gemma2_like(keys: GgufKeys, layers_of_27b: int) -> Config:
    config = _own_head_dim(keys)
    del config["hidden_act"]
    is_27b = config["num_hidden_layers"] == layers_of_27b
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": hidden // heads if is_27b else config["head_dim"],
        "sliding_window": keys.size("attention.sliding_window"),
        "final_logit_softcapping": keys.optional_number("final_logit_softcapping"),
    }


def _gemma2(keys: GgufKeys) -> Config:
    config = {
        **_gemma2_like(keys, 46),
        "attn_logit_softcapping": keys.optional_number("attn_logit_softcapping"),
    }
    return with_class("Gemma2ForCausalLM", "gemma2", config)


def _gemma3(keys: GgufKeys) -> Config:
    config = {
        **_gemma2_like(keys, 62),
        "sliding_window_pattern": 6,
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 10_000.0),
    }
    return with_class("Gemma3ForCausalLM", "gemma3_text", config)


# --- OLMo -----------------------------------------------------------------------------------------


def _olmo(keys: GgufKeys) -> Config:
    config = {
        **read_decoder(keys),
        **read_rope(keys, plain_head_dim(keys)),
        "num_key_value_heads": read_kv_heads(keys),
        "hidden_act": "silu",
        "clip_qkv": keys.optional_number("attention.clamp_kqv"),
    }
    is_fixed = keys.number(LAYER_NORM_EPS, 1e-5) == 1e-5
    keys.require(is_fixed, LAYER_NORM_EPS, "be 1e-5, as in every OLMo")
    return with_class("OlmoForCausalLM", "olmo", config)


def _olmo2(keys: GgufKeys) -> Config:
    config = _decoder(keys, plain_head_dim(keys))
    if not keys.count("attention.sliding_window", 0):
        return with_class("Olmo2ForCausalLM", "olmo2", config)
    num_layers = config["num_hidden_layers"]
    slides = keys.flags("attention.sliding_window_pattern", num_layers)
    slides = slides or [(layer + 1) % 4 > 0 for layer in range(num_layers)]
    config["layer_types"] = _layer_types(slides)
    config["sliding_window"] = keys.size("attention.sliding_window")
    return with_class("Olmo3ForCausalLM", "olmo3", config)


def _layer_types(slides: list[bool]) -> list[str]:
    return ["sliding_attention" if each else "full_attention" for each in slides]


# --- layer norms ----------------------------------------------------------------------------------


def _layer_norm_decoder(keys: GgufKeys, *, fraction: str | None = None) -> Config:
    return {
        **read_decoder(keys),
        **read_rope(keys, plain_head_dim(keys), fraction=fraction),
        "num_key_value_heads": read_kv_heads(keys),
        "layer_norm_eps": keys.number(LAYER_NORM_EPS),
        "hidden_act": "silu",
    }


def _stablelm(keys: GgufKeys) -> Config:
    # A parallel layer has one norm, so its tensors tell; the key is not always written.
    is_parallel = not keys.has_tensor("blk.0.ffn_norm.weight")
    keys.flag("use_parallel_residual", is_parallel)
    config = {
        **_layer_norm_decoder(keys, fraction="partial_rotary_factor"),
        "use_parallel_residual": is_parallel,
        "use_qkv_bias": keys.has_tensor("blk.0.attn_q.bias"),
        "qk_layernorm": keys.has_tensor("blk.0.attn_q_norm.weight"),
    }
    return with_class("StableLmForCausalLM", "stablelm", config)


def _command_r(keys: GgufKeys) -> Config:
    config = {
        **_layer_norm_decoder(keys),
        "logit_scale": keys.number("logit_scale"),
        "use_qk_norm": keys.has_tensor("blk.0.attn_q_norm.weight"),
    }
    return with_class("CohereForCausalLM", "cohere", config)


def _cohere2(keys: GgufKeys) -> Config:
    config = {
        **_layer_norm_decoder(keys),
        "logit_scale": keys.number("logit_scale"),
        "sliding_window": keys.size("attention.sliding_window"),
        "sliding_window_pattern": 4,
    }
    return with_class("Cohere2ForCausalLM", "cohere2", config)


# --- experts --------------------------------------------------------------------------------------


def _experts(keys: GgufKeys) -> Config:
    stored = keys.tensor("blk.0.ffn_gate_exps.weight").shape[0]
    num_experts = keys.size("expert_count")
    keys.require(num_experts == stored, "expert_count", f"be {stored}, as many as are stored")
    return {
        "num_experts": num_experts,
        "num_experts_per_tok": keys.size("expert_used_count"),
    }


def _expert_size(keys: GgufKeys) -> int:
    shape = keys.tensor("blk.0.ffn_gate_exps.weight").shape
    return keys.size("expert_feed_forward_length", shape[-2] if len(shape) > 1 else None)


def _qwen2moe(keys: GgufKeys) -> Config:
    shared = keys.tensor("blk.0.ffn_gate_shexp.weight").shape[0]
    config = {
        **_decoder(keys, plain_head_dim(keys)),
        **_experts(keys),
        "moe_intermediate_size": _expert_size(keys),
        "shared_expert_intermediate_size": keys.size("expert_shared_feed_forward_length", shared),
        "norm_topk_prob": keys.flag("expert_weights_norm", False),
    }
    return with_class("Qwen2MoeForCausalLM", "qwen2_moe", config)


def _qwen3moe(keys: GgufKeys) -> Config:
    config = {
        **_own_head_dim(keys),
        **_experts(keys),
        "moe_intermediate_size": _expert_size(keys),
        "norm_topk_prob": keys.flag("expert_weights_norm", True),
    }
    return with_class("Qwen3MoeForCausalLM", "qwen3_moe", config)


def _olmoe(keys: GgufKeys) -> Config:
    config = {
        **_decoder(keys, plain_head_dim(keys)),
        **_experts(keys),
        "intermediate_size": _expert_size(keys),
        "norm_topk_prob": keys.flag("expert_weights_norm", False),
        "clip_qkv": keys.optional_number("attention.clamp_kqv"),
    }
    return with_class("OlmoeForCausalLM", "olmoe", config)


LLAMA_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": GgufArchitecture(_llama, _names(changes=_PERMUTED)),
    "qwen2": GgufArchitecture(_qwen2, _names()),
    "qwen3": GgufArchitecture(_qwen3, _names(_QK_NORMS)),
    "smollm3": GgufArchitecture(_smollm3, _names(changes=_PERMUTED)),
    "granite": GgufArchitecture(_granite, _names(changes=_PERMUTED)),
    "ernie4_5": GgufArchitecture(_ernie4_5, _names()),
    "hunyuan-dense": GgufArchitecture(
        _hunyuan_dense,
        _names(
            {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
        ),
    ),
    "phi3": GgufArchitecture(
        _phi3, _names({"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"})
    ),
    "gemma": GgufArchitecture(_gemma, _names(changes=_GEMMA_NORMS)),
    "gemma2": GgufArchitecture(
        _gemma2, _names({**_POST_NORMS, "ffn_norm": "pre_feedforward_layernorm"}, _GEMMA_NORMS)
    ),
    "gemma3": GgufArchitecture(
        _gemma3,
        _names({**_QK_NORMS, **_POST_NORMS, "ffn_norm": "pre_feedforward_layernorm"}, _GEMMA_NORMS),
    ),
    "olmo": GgufArchitecture(_olmo, _names(changes=_PERMUTED)),
    "olmo2": GgufArchitecture(_olmo2, _names({**_QK_NORMS, **_POST_NORMS})),
    "stablelm": GgufArchitecture(
        _stablelm,
        _names(
            {
                "attn_q_norm": "self_attn.q_layernorm.norms.{index}",
                "attn_k_norm": "self_attn.k_layernorm.norms.{index}",
            }
        ),
    ),
    "command-r": GgufArchitecture(_command_r, _names(_QK_NORMS)),
    "cohere2": GgufArchitecture(_cohere2, _names()),
    "qwen2moe": GgufArchitecture(
        _qwen2moe,
        _names(
            {
                **_EXPERTS,
                "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
                "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
                "ffn_up_shexp": "mlp.shared_expert.up_proj",
                "ffn_down_shexp": "mlp.shared_expert.down_proj",
            },
            {"ffn_gate_inp_shexp": change.one_row},
        ),
    ),
    "qwen3moe": GgufArchitecture(_qwen3moe, _names({**_EXPERTS, **_QK_NORMS})),
    "olmoe": GgufArchitecture(_olmoe, _names({**_EXPERTS, **_QK_NORMS})),
}
