"""Writes a Hugging Face folder: config, bf16 weights, tokenizer, chat template, lock file.

`transformers` and the server load it with equal logits.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from shoal.train.config import ModelShape, Sampling
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
    """Write the folder; files already there with the same names are replaced.

    `read_twice`: its chat template writes every user turn twice."""
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_json(out_dir / "config.json", llama_config(network, tokenizer))
    weights = {
        name: weight.to("cpu", torch.bfloat16).contiguous()
        for name, weight in plain_weights(network).items()
    }
    save_file(weights, out_dir / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes it readable by its owner alone; a server may run as another user.
    (out_dir / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out_dir / "tokenizer.json"))
    _write_json(out_dir / "tokenizer_config.json", _tokenizer_config(network.shape, read_twice))
    _write_json(out_dir / "generation_config.json", _generation_config(tokenizer, sampling))
    write_lock(out_dir)


def write_lock(folder: Path) -> None:
    """lock.json: SHA-256 and size of every file of the folder but the card."""
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in ("lock.json", "MODEL.md")
    }
    _write_json(folder / "lock.json", {"files": files})


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


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
