"""Random tiny encoders as `transformers` saves them, and what sentence-transformers adds."""

import json
from pathlib import Path
from typing import Any

from tests.fakes.text_folder import write_text_folder

VOCAB_SIZE = 272
"""The tokenizer's 261 ids, padded as real embeddings are."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 98,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"architectures": ["BertModel"], "model_type": "bert", **_SIZES},
    "roberta": {"architectures": ["RobertaModel"], "model_type": "roberta", **_SIZES},
    "xlm-roberta": {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", **_SIZES},
    "distilbert": {
        "architectures": ["DistilBertModel"],
        "model_type": "distilbert",
        "vocab_size": VOCAB_SIZE,
        "dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 80,
        "max_position_embeddings": 98,
    },
    "modernbert": {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        **_SIZES,
        "num_hidden_layers": 4,
        "local_attention": 16,
        "pad_token_id": 0,
    },
}
"""`model_type` -> a config.json of that family."""


def make_encoder(config: dict[str, Any], seed: int = 0) -> Any:
    """The network of `transformers` in float32, every weight random."""
    import torch
    import transformers

    settings = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    torch.manual_seed(seed)
    network = getattr(transformers, config["architectures"][0])(settings).float().eval()
    with torch.no_grad():
        for parameter in network.parameters():  # norms and biases too
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network


def write_encoder(
    folder: Path, kind: str = "bert", *, seed: int = 0, files: bool = False, **changes: Any
) -> Path:
    """A folder of a family, its tokenizer that of `text_folder.py`; a change to ... takes the key
    out. `files`: also those of sentence-transformers, for the normalized mean."""
    config = {k: v for k, v in (ENCODERS[kind] | changes).items() if v is not ...}
    make_encoder(config, seed).save_pretrained(folder)
    write_text_folder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    if files:
        write_sentence_files(folder)
    return folder


def write_sentence_files(
    folder: Path,
    *,
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    pooling: dict[str, Any] | None = None,
    transformer: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """`pooling`, `transformer`, `settings`: what stands in the files of those names."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    steps = [
        {
            "idx": index,
            "name": str(index),
            "path": paths.get(name, f"{index}_{name}"),
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"pooling_mode_mean_tokens": True} if pooling is None else pooling
    for name, values in {
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": settings,
    }.items():
        if values is not None:
            (folder / name).write_text(json.dumps(values))
