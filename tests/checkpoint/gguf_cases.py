"""Small models of `transformers` for every architecture of GGUF, and what the converter writes of
each beyond what it writes of all."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.open import open_model
from tests.fakes.gguf_files import converted, write_gguf
from tests.fakes.tiny_models import save_safetensors

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Case:
    """`metadata`: what the converter writes beyond what it writes for all."""

    architecture: str
    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def llama3_factors(head_dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the converter writes in place of the settings (as Llama 3.1 defines them)."""
    freqs = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    waves = 2 * np.pi / freqs
    smooth = (64 / waves - 1.0) / (4.0 - 1.0)
    between = 1 / ((1 - smooth) / 8.0 + smooth)
    found = np.where(waves < 64 / 4.0, 1.0, np.where(waves > 64 / 1.0, 8.0, between))
    return found.astype(np.float32)


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.25, 1.5, 2.0, 2.5, 3.0],
    "long_factor": [1.0, 2.0, 4.0, 5.0, 6.0, 8.0],
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.75,
}
LONGROPE_ATTENTION = float(np.sqrt(1 + np.log(256 / 64) / np.log(64)))
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {"head_dim": 24, "num_attention_heads": 4}
EVERY_FOURTH = {"num_hidden_layers": 4, "sliding_window": 21}
NO_KV: dict[str, Any] = {"num_key_value_heads": ...}

CASES: dict[str, Case] = {
    "llama": Case("llama", "llama", {}, {"vocab_size": 96, "rope.dimension_count": 16}),
    "llama, tied, head_dim of its own": Case(
        "llama", "llama", {"tie_word_embeddings": True, "head_dim": 24}
    ),
    "llama, biases": Case("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": Case(
        "llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama, yarn": Case(
        "llama",
        "llama",
        {"rope_parameters": YARN},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    "llama, factors": Case(
        "llama",
        "llama",
        {"rope_parameters": LLAMA3_ROPE},
        tensors={"rope_freqs.weight": llama3_factors(16)},
    ),
    "mistral": Case("llama", "mistral", {"sliding_window": None}),
    "qwen2": Case("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": Case("qwen3", "qwen3", {"head_dim": 24}),
    "smollm3": Case("smollm3", "smollm3", {"num_hidden_layers": 4}),
    "granite": Case(
        "granite",
        "granite",
        {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "rms_norm_eps": 1e-5,
        },
        {
            "attention.scale": 0.2,
            "embedding_scale": 6.0,
            "residual_scale": 0.4,
            "logit_scale": 2.0,
        },
    ),
    "ernie4_5": Case("ernie4_5", "ernie4_5", {"head_dim": 24}),
    "hunyuan-dense": Case(
        "hunyuan-dense",
        "hunyuan_v1_dense",
        {"head_dim": 24},
        {"rope.scaling.type": "none", "rope.scaling.factor": 1.0},
    ),
    "phi3": Case("phi3", "phi3", {"sliding_window": 21}, {"attention.sliding_window": 21}),
    "phi3, longrope": Case(
        "phi3",
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
        {
            "attention.sliding_window": 0,
            "rope.dimension_count": 12,
            "rope.scaling.type": "longrope",
            "rope.scaling.attn_factor": LONGROPE_ATTENTION,
            "rope.scaling.original_context_length": 64,
        },
        {
            "rope_factors_short.weight": np.array(LONGROPE["short_factor"], np.float32),
            "rope_factors_long.weight": np.array(LONGROPE["long_factor"], np.float32),
        },
    ),
    "gemma": Case("gemma", "gemma", GEMMA),
    "gemma2": Case(
        "gemma2",
        "gemma2",
        {**GEMMA, "sliding_window": 21, "query_pre_attn_scalar": 24},
        {
            "attention.sliding_window": 21,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3": Case(
        "gemma3",
        "gemma3_text",
        {**GEMMA, "num_hidden_layers": 6, "sliding_window": 21, "query_pre_attn_scalar": 24},
        {"attention.sliding_window": 21, "rope.freq_base": 1000000.0},
    ),
    "olmo": Case(
        "olmo",
        "olmo",
        {"clip_qkv": 0.7},
        {"attention.clamp_kqv": 0.7, "attention.layer_norm_epsilon": 1e-5},
    ),
    "olmo2": Case("olmo2", "olmo2", {}),
    "olmo3": Case(
        "olmo2",
        "olmo3",
        EVERY_FOURTH,
        {
            "attention.sliding_window": 21,
            "attention.sliding_window_pattern": [True, True, True, False],
            "rope.freq_base": 500000.0,
        },
    ),
    "stablelm": Case(
        "stablelm",
        "stablelm",
        {"use_qkv_bias": True},
        {"rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "stablelm, parallel, head norms": Case(
        "stablelm",
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True},
        {"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "command-r": Case(
        "command-r",
        "cohere",
        {"logit_scale": 0.25},
        {"logit_scale": 0.25, "rope.scaling.type": "none", "rope.freq_base": 500000.0},
    ),
    "command-r, head norms": Case(
        "command-r",
        "cohere",
        {"use_qk_norm": True, "logit_scale": 0.25},
        {"logit_scale": 0.25, "rope.freq_base": 500000.0},
    ),
    "cohere2": Case(
        "cohere2",
        "cohere2",
        {**EVERY_FOURTH, "logit_scale": 0.25},
        {"logit_scale": 0.25, "attention.sliding_window": 21, "rope.dimension_count": 16},
    ),
    "qwen2moe": Case(
        "qwen2moe",
        "qwen2_moe",
        {**EXPERTS, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
        {
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 64,
        },
    ),
    "qwen3moe": Case(
        "qwen3moe",
        "qwen3_moe",
        {**EXPERTS, "moe_intermediate_size": 32, "head_dim": 24, "norm_topk_prob": True},
        {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32},
    ),
    "olmoe": Case("olmoe", "olmoe", EXPERTS, {"expert_count": 4, "expert_used_count": 2}),
    "gpt2": Case("gpt2", "gpt2", {**NO_KV, "n_inner": 96, "intermediate_size": ...}),
    "phi2": Case("phi2", "phi", {"partial_rotary_factor": 0.5}, {"rope.dimension_count": 8}),
    "gptneox": Case(
        "gptneox",
        "gpt_neox",
        NO_KV,
        {"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "gptneox, one after the other": Case(
        "gptneox",
        "gpt_neox",
        {**NO_KV, "use_parallel_residual": False},
        {"rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "bloom": Case(
        "bloom", "bloom", {**NO_KV, "intermediate_size": ...}, {"attention.head_count_kv": 4}
    ),
    "falcon": Case(
        "falcon",
        "falcon",
        {**NO_KV, "multi_query": True, "ffn_hidden_size": 256},
        {"attention.head_count_kv": 1, "feed_forward_length": 256, "tensor_data_layout": "jploski"},
    ),
    "falcon, two norms": Case(
        "falcon",
        "falcon",
        {**NO_KV, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 256},
        {"attention.head_count_kv": 2, "feed_forward_length": 256},
    ),
    "starcoder2": Case("starcoder2", "starcoder2", {}),
    "lfm2": Case(
        "lfm2",
        "lfm2",
        {
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
        {"attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3, "vocab_size": 96},
    ),
}


def network(case: Case) -> Any:
    """The case in `transformers`, with weights that make every part count."""
    values = {k: v for k, v in {**SIZES, **case.config}.items() if v is not ...}
    config = transformers.AutoConfig.for_model(case.model_type, **values)
    torch.manual_seed(zlib.crc32(case.model_type.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        spread = 0.2 if parameter.ndim < 2 else 2.5 * parameter.shape[-1] ** -0.5
        parameter.data = (
            torch.randn_like(parameter) * spread
            if parameter.ndim > 1
            else parameter.data + torch.randn_like(parameter) * spread
        )
    return model.float().eval()


def written(case: Case, model: Any, path: Path, stored: str = "F32") -> Path:
    content = converted(model, case.architecture, **case.metadata)
    content.tensors.update(case.tensors)
    return write_gguf(path, content, stored=stored)


def as_folder(path: Path, folder: Path) -> Path:
    """What we read of a file, written as Hugging Face's libraries keep it."""
    files = open_model(path)
    tensors = files.tensors(lambda progress: None)
    folder.mkdir()
    no_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    (folder / "config.json").write_text(json.dumps({**files.config, **no_ids}))
    arrays = {name: np.ascontiguousarray(dequantize(t)) for name, t in tensors.items()}
    save_safetensors(folder / "model.safetensors", arrays)
    return folder
