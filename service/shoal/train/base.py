"""Loads a Hugging Face folder to train it further.

Accepts what this package can train: the Llama architecture without biases and with unscaled rotary
positions, embeddings tied or not, any `tokenizer.json`. Control tokens of `tokenizer.py` that the
tokenizer lacks are added to it; their rows of the embedding are the mean of all others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from shoal.checkpoint.read import read_json
from shoal.train.config import ModelShape, RecipeError
from shoal.train.network import Llama
from shoal.train.tokenizer import CONTROL_TOKENS, begin_with_end_of_text, chat_template


def load_base(folder: Path, dropout: float = 0.0) -> tuple[Llama, Tokenizer]:
    """The network (float32) and tokenizer of a folder. Raises `RecipeError` with the reason,
    ModelFolderError for a file that cannot be read."""
    config = _read_config(folder)
    if not (folder / "tokenizer.json").is_file():
        raise RecipeError(f"{folder} has no tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()  # an earlier training may have left them in the file
    tokenizer.no_padding()
    weights = {
        name: weight.to(torch.float32)
        for file in _weight_files(folder)
        for name, weight in load_file(file).items()
    }
    tied = bool(config.get("tie_word_embeddings", False))
    if tied:
        weights.pop("lm_head.weight", None)
    network = Llama(_shape(config, dropout), int(config["vocab_size"]), tied)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RecipeError(f"the weights of {folder} do not fit its config.json: {error}") from error
    return _with_control_tokens(network, tokenizer)


def reads_twice(folder: Path) -> bool:
    """Does the folder's chat template write every user turn twice? Then training must too."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    settings = read_json(path)
    return bool(settings.get("chat_template") == chat_template(read_twice=True))


def _weight_files(folder: Path) -> list[Path]:
    """The files that the index names, or all where there is none."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    names = read_json(index).get("weight_map", {}).values()
    files = [folder / name for name in sorted(set(names))]
    if outside := [name for name in names if Path(name).name != name]:
        raise RecipeError(f"{index} names {outside[0][:100]}, a file outside the folder")
    if missing := [file.name for file in files if not file.is_file()]:
        raise RecipeError(f"{index} names {', '.join(missing)}, which {folder} does not hold")
    return files


def _with_control_tokens(network: Llama, tokenizer: Tokenizer) -> tuple[Llama, Tokenizer]:
    missing = [token for token in CONTROL_TOKENS if tokenizer.token_to_id(token) is None]
    if not missing:
        return network, tokenizer
    tokenizer.add_special_tokens(missing)
    begin_with_end_of_text(tokenizer)
    ids = tokenizer.get_vocab()
    added = [ids[token] for token in missing]
    larger = Llama(network.shape, max(network.vocab_size, max(added) + 1), network.lm_head is None)
    weights = network.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            known = weights[name]
            mean = known[: min(added)].mean(dim=0)
            rows = torch.cat((known, mean.expand(larger.vocab_size - len(known), -1)))
            rows[added] = mean
            weights[name] = rows
    larger.load_state_dict(weights)
    return larger, tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise RecipeError(f"{folder} is not a model folder: it has no config.json")
    config: dict[str, Any] = read_json(path)
    expected = {
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "hidden_act": "silu",
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise RecipeError(f"{path}: {key} is {config[key]!r}; only {value!r} can be trained")
    rope = config.get("rope_parameters") or {}  # as transformers 5 writes it
    if rope.get("rope_type", "default") != "default":
        raise RecipeError(
            f"{path}: rope_type is {rope['rope_type']!r}; only 'default' can be trained"
        )
    return {**rope, **config}


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
