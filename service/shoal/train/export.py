"""Writes a Hugging Face folder: config, bf16 weights, tokenizer, chat template, lock file.

`transformers` and the server load it with equal logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shoal.checkpoint.safetensors_write import Layout, write_safetensors
from shoal.train.config import ModelShape, Sampling
from shoal.train.finetune.folder import replace_folder
from shoal.train.network import Llama
from shoal.train.tokenizer import CONTROL_TOKENS, END, END_OF_TEXT, chat_template
from shoal.train.twin_embedding import plain_weights


def export_folder(
    network: Llama,
    tokenizer: Tokenizer,
    sampling: Sampling,
    out_dir: Path,
    read_twice: bool = False,
) -> None:
    """Write the folder, whole or not at all; see `replace_folder`. Raises RecipeError.

    `read_twice`: its chat template writes every user turn twice."""

    def write(folder: Path) -> None:
        _write_json(folder / "config.json", llama_config(network, tokenizer))
        weights = plain_weights(network)
        layouts = {name: Layout("BF16", tuple(weight.shape)) for name, weight in weights.items()}
        arrays = ((name, _bfloat16_bits(weight)) for name, weight in weights.items())
        write_safetensors(folder, "model", layouts, arrays)
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        settings = _tokenizer_config(network.shape, read_twice)
        _write_json(folder / "tokenizer_config.json", settings)
        _write_json(folder / "generation_config.json", _generation_config(tokenizer, sampling))

    replace_folder(out_dir, write)


def llama_config(network: Llama, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a `LlamaForCausalLM`."""
    shape, end_of_text = network.shape, tokenizer.token_to_id(END_OF_TEXT)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": network.vocab_size,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": network.lm_head is None,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def _tokenizer_config(shape: ModelShape, read_twice: bool) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(CONTROL_TOKENS[1:]),
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(read_twice),
    }


def _generation_config(tokenizer: Tokenizer, sampling: Sampling) -> dict[str, Any]:
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config: dict[str, Any] = {
        "bos_token_id": end_of_text,
        "eos_token_id": [end_of_text, tokenizer.token_to_id(END)],
        "pad_token_id": end_of_text,
        "do_sample": sampling.do_sample,
        "max_new_tokens": sampling.max_new_tokens,
    }
    if sampling.do_sample:
        config |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return config


def _bfloat16_bits(weight: torch.Tensor) -> NDArray[Any]:
    return weight.detach().to("cpu", torch.bfloat16).view(torch.uint16).numpy()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
