"""`run_training`: from a recipe or a user's own file to a Hugging Face folder.

The wiring of this package: corpora, tokenizer, packing, loop, export. Holds no training logic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from shoal.train.config import Recipe, Source, load_recipe
from shoal.train.corpora import Corpus, Document, read_corpus
from shoal.train.embedding import cooccurrence_embedding
from shoal.train.export import export_folder
from shoal.train.heldout import bits_per_byte, exact_share
from shoal.train.loop import Progress, StepReport, Trainer, Watch
from shoal.train.network import Llama
from shoal.train.packing import TokenizedDocument, tokenize_documents
from shoal.train.tokenizer import CONTROL_TOKENS, train_tokenizer

WATCHED_DOCUMENTS = 300  # held-out documents looked at while training


class TrainingResult(NamedTuple):
    """What a run produced."""

    out_dir: Path
    run_dir: Path
    num_parameters: int
    progress: Progress


def run_training(
    source: Path,
    out_dir: Path,
    *,
    data_dir: Path | None = None,
    run_dir: Path | None = None,
    resume: bool = True,
    limit_s: float | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> TrainingResult:
    """Train from a recipe (`.toml`) or from a user's own text or JSONL file."""
    recipe, data_dir = _recipe_of(source, data_dir, out_dir.name)
    run_dir = run_dir or Path("runs") / recipe.name
    corpus = read_corpus(recipe, data_dir)
    tokenizer = _tokenizer_for(recipe, corpus, run_dir)
    documents = tokenize_documents(corpus.train, tokenizer, recipe.model.context)
    network = Llama(recipe.model, tokenizer.get_vocab_size())
    network.initialize(recipe.schedule.seed)
    resuming = resume and (run_dir / "checkpoint.pt").is_file()
    if recipe.tokenizer.warm_start and not resuming:
        _warm_start(network, corpus, tokenizer)
    watch = Watch(
        on_step=on_step,
        evaluate=_held_out_check(corpus, tokenizer, recipe),
        on_checkpoint=lambda net, _: export_folder(net, tokenizer, recipe.sampling, out_dir),
    )
    trainer = Trainer(
        network, documents, recipe.schedule, run_dir, watch=watch, limit_s=limit_s
    )
    if resuming:
        trainer.resume()
    progress = trainer.run()
    count = sum(weight.numel() for weight in network.parameters())
    return TrainingResult(out_dir, run_dir, count, progress)


def _recipe_of(source: Path, data_dir: Path | None, name: str) -> tuple[Recipe, Path]:
    if source.suffix == ".toml":
        return load_recipe(source), data_dir or source.parent
    own = Source(file=source.name, hold_out_share=0.02)
    return replace(Recipe(name=name), sources=(own,)), source.parent


def _tokenizer_for(recipe: Recipe, corpus: Corpus, run_dir: Path) -> Tokenizer:
    kept = run_dir / "tokenizer.json"
    if kept.is_file():
        return Tokenizer.from_file(str(kept))
    tokenizer = train_tokenizer(_texts(corpus), recipe.tokenizer)
    run_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(kept))
    return tokenizer


def _texts(corpus: Corpus) -> Iterator[str]:
    """Texts for the tokenizer. Beside a background, what is trained on counts ten times."""
    for _ in range(10 if corpus.background else 1):
        yield from _texts_of(corpus.train)
    yield from _texts_of(corpus.background)


def _texts_of(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        for variant in {id(found): found for found in document.variants[::7]}.values():
            yield from (_without_control(piece.text) for piece in variant)


def _warm_start(network: Llama, corpus: Corpus, tokenizer: Tokenizer) -> None:
    texts = [*_texts_of(corpus.background), *_texts_of(corpus.train)]
    blank = {tokenizer.token_to_id(token) for token in ("\u0120", "\u010a")}  # byte-level ` `, `\n`
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [
        np.array([token for token in found.ids if token not in blank], dtype=np.int32)
        for found in encoded
    ]
    size = network.shape.hidden_size
    with torch.no_grad():
        network.model.embed_tokens.weight.copy_(
            cooccurrence_embedding(ids, network.vocab_size, size)
        )


def _without_control(text: str) -> str:
    for token in CONTROL_TOKENS:
        text = text.replace(token, "")
    return text


def _held_out_check(
    corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe
) -> Callable[[Llama], dict[str, float]]:
    watched: dict[str, tuple[list[TokenizedDocument], int]] = {}
    for name, documents in corpus.held_out.items():
        some = documents[:: max(1, len(documents) // WATCHED_DOCUMENTS)]
        rows = tokenize_documents(some, tokenizer, recipe.model.context)
        # an answer to a request is right or wrong; a text is measured by its bits
        answers = all(len(document.variants[0]) > 2 for document in some)
        watched[name] = (rows, 0 if answers else _learned_bytes(some))

    def check(network: Llama) -> dict[str, float]:
        figures = {}
        for name, (rows, num_bytes) in watched.items():
            if num_bytes:
                figures[f"bits_per_byte {name}"] = bits_per_byte(network, rows, num_bytes)
            else:
                figures[f"exact {name}"] = exact_share(network, rows)
        return figures

    return check


def _learned_bytes(documents: list[Document]) -> int:
    return sum(
        len(_without_control(piece.text).encode())
        for document in documents
        for piece in document.variants[0]
        if piece.learned
    )


if __name__ == "__main__":  # the CLI calls run_training; this is the same without a progress bar
    import sys

    torch.set_num_threads(2)
    run_training(
        Path(sys.argv[1]), Path(sys.argv[2]), data_dir=Path(sys.argv[3]),
        limit_s=float(sys.argv[4]) if len(sys.argv) > 4 else None,
    )
