"""Small parts for training tests: a tiny shape, a few stories, a tokenizer, a trainer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from shoal.train.config import ModelShape, Schedule, TokenizerChoice
from shoal.train.loop import Trainer
from shoal.train.network import Llama
from shoal.train.packing import tokenize_documents
from shoal.train.pieces import Document, plain, request_and_answer
from shoal.train.tokenizer import train_tokenizer

NAMES = ("Tom", "Mia", "Sam", "Lily", "Ben", "Anna", "Max", "Sue")
THINGS = ("ball", "cake", "boat", "hat", "dog", "book")

TINY = ModelShape(
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    context=64,
)


def make_stories() -> list[str]:
    return [
        f"{name} had a red {thing}. {name} liked the {thing} a lot. The end."
        for name in NAMES
        for thing in THINGS
    ]


def make_documents() -> list[Document]:
    return [
        Document([plain(story), request_and_answer("Tell me a story.", story)], 1.0)
        for story in make_stories()
    ]


def make_tokenizer() -> Tokenizer:
    return train_tokenizer(make_stories(), TokenizerChoice(vocab_size=320))


def make_schedule(**changes: float) -> Schedule:
    settings: dict[str, float] = {
        "tokens": 12_000,
        "batch_tokens": 512,
        "warmup_steps": 4,
        "checkpoint_every_s": 1e9,
        "evaluate_every": 1000,
    }
    return Schedule(**{**settings, **changes})  # type: ignore[arg-type]


def make_trainer(run_dir: Path, shape: ModelShape = TINY, **changes: float) -> Trainer:
    tokenizer = make_tokenizer()
    network = Llama(shape, tokenizer.get_vocab_size())
    network.initialize(seed=3)
    documents = tokenize_documents(make_documents(), tokenizer, shape.context)
    return Trainer(network, documents, make_schedule(**changes), run_dir)


def write_jsonl(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def randomize(network: Llama) -> None:
    """Weights large enough to matter, the same whichever tests ran before."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.3, generator=generator)
