"""Loads an existing Hugging Face folder to fine-tune it.

Accepts what this package can train: the Llama architecture with tied embeddings, no biases, plain
rotary positions, and a tokenizer with the control tokens of `tokenizer.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from shoal.train.config import ModelShape, RecipeError
from shoal.train.network import Llama
from shoal.train.tokenizer import CONTROL_TOKENS


def load_base(folder: Path, dropout: float = 0.0) -> tuple[Llama, Tokenizer]:
    """The network (float32) and tokenizer of a folder. Raises `RecipeError` with the reason."""
    config = _read_config(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lacking = [token for token in CONTROL_TOKENS if tokenizer.token_to_id(token) is None]
    if lacking:
        raise RecipeError(
            f"{folder} has no token {', '.join(lacking)}; fine-tuning starts from folders that "
            "`shoal train` wrote"
        )
    network = Llama(_shape(config, dropout), int(config["vocab_size"]))
    weights = {
        name: weight.to(torch.float32)
        for file in sorted(folder.glob("*.safetensors"))
        for name, weight in load_file(file).items()
        if name != "lm_head.weight"  # tied
    }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RecipeError(f"the weights of {folder} do not fit its config.json: {error}") from error
    return network, tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise RecipeError(f"{folder} is no model folder: it has no config.json")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    expected = {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "hidden_act": "silu",
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise RecipeError(f"{path}: {key} is {config[key]!r}; fine-tuning knows {value!r} only")
    return config


def _shape(config: dict[str, Any], dropout: float) -> ModelShape:
    heads = int(config["num_attention_heads"])
    return ModelShape(
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads", heads)),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        context=int(config["max_position_embeddings"]),
        rope_theta=float(config.get("rope_theta", 10_000.0)),
        norm_eps=float(config["rms_norm_eps"]),
        dropout=dropout,
    )
