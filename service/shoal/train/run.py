"""`run_training`: from a recipe or a user's own file to a Hugging Face folder.

The wiring of this package: corpora, tokenizer, network, loop, export. Holds no training logic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from shoal.train.base import grow, load_base, reads_twice
from shoal.train.card import write_card
from shoal.train.config import Recipe, RecipeError, Schedule, Source, load_recipe
from shoal.train.corpora import Corpus, read_corpus
from shoal.train.export import export_folder
from shoal.train.loop import Progress, StepReport, Trainer, Watch
from shoal.train.lora import add_lora
from shoal.train.material import held_out_check, tokenizer_for, warm_start
from shoal.train.network import Llama, with_twins
from shoal.train.packing import TokenizedDocument, tokenize_documents
from shoal.train.report import write_loss_plot
from shoal.train.tokenizer import twins

_OWN_EPOCHS, _FINE_TUNE_EPOCHS = 12, 3  # for own files, where no recipe says how long
_MIN_TOKENS, _MAX_TOKENS = 50_000, 50_000_000


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train, on what, and where the result goes."""

    out: Path  # the model folder to write
    data: Path  # with a recipe: the folder of its corpora; without: a text, JSONL or JSONL.xz file
    recipe: Path | None = None  # a recipe file, or a folder that holds recipe.toml
    base: Path | None = None  # a model folder to fine-tune instead of starting anew
    lora_rank: int | None = None  # with a base: train adapters of this rank, merged at the end
    tokens: int | None = None  # overrides the recipe's length
    limit_s: float | None = None  # finish, decay included, within this many seconds
    run_dir: Path | None = None  # checkpoints and log; default runs/<name of the model>
    fresh: bool = False  # ignore a checkpoint that is already there
    device: str | None = None  # default: cuda where there is one, else cpu


class TrainingResult(NamedTuple):
    """What a run produced."""

    out: Path
    run_dir: Path
    num_parameters: int
    progress: Progress
    held_out: dict[str, float]  # on all held-out documents
    plot: Path | None  # None: matplotlib is not installed


def run_training(
    request: TrainingRequest, on_step: Callable[[StepReport], None] = lambda report: None
) -> TrainingResult:
    """Train, checkpoint, export. Continues a run that was stopped, unless `fresh`.

    Raises `RecipeError` when recipe, corpora or base folder cannot be used, in plain words.
    """
    recipe, data_dir = _recipe_of(request)
    if request.base is not None and reads_twice(request.base):
        recipe = replace(recipe, read_twice=True)
    run_dir = request.run_dir or Path("runs") / recipe.name
    corpus = read_corpus(recipe, data_dir, base=request.base)
    network, tokenizer = _network(request, recipe, corpus, run_dir)
    recipe = replace(recipe, model=network.shape)
    documents = tokenize_documents(corpus.train, tokenizer, recipe.model.context)
    schedule = _schedule(request, recipe.schedule, documents)
    network.to(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    watch = Watch(
        on_step=on_step,
        evaluate=held_out_check(corpus, tokenizer, recipe.model.context),
        on_checkpoint=lambda net, _: export_folder(
            net, tokenizer, recipe.sampling, request.out, recipe.read_twice
        ),
    )
    trainer = Trainer(network, documents, schedule, run_dir, watch=watch, limit_s=request.limit_s)
    if not request.fresh:
        trainer.resume()
    progress = trainer.run()
    network.eval()
    figures = held_out_check(corpus, tokenizer, recipe.model.context, most=None)(network)
    plot = run_dir / "loss.png"
    drawn = write_loss_plot(progress, plot)
    write_card(request.out, recipe, progress, figures, _command(request))
    count = sum(weight.numel() for weight in network.parameters())
    return TrainingResult(request.out, run_dir, count, progress, figures, plot if drawn else None)


def _command(request: TrainingRequest) -> str:
    """The command line that asks for the same."""
    wishes = {
        "data": request.data,
        "out": request.out,
        "recipe": request.recipe,
        "base": request.base,
        "lora": request.lora_rank,
        "tokens": request.tokens,
        "minutes": request.limit_s and f"{request.limit_s / 60:g}",
    }
    flags = [f"--{name} {value}" for name, value in wishes.items() if value is not None]
    return " ".join(["shoal train", *flags])


def _recipe_of(request: TrainingRequest) -> tuple[Recipe, Path]:
    if request.recipe is not None:
        path = request.recipe
        return load_recipe(path / "recipe.toml" if path.is_dir() else path), request.data
    if not request.data.is_file():
        raise RecipeError(f"{request.data} is no file; without a recipe, give a text or JSONL file")
    own = Source(file=request.data.name, title="your own file", hold_out_share=0.02)
    return Recipe(name=request.out.name, sources=(own,)), request.data.parent


def _network(
    request: TrainingRequest, recipe: Recipe, corpus: Corpus, run_dir: Path
) -> tuple[Llama, Tokenizer]:
    if request.base is not None:
        network, tokenizer = load_base(request.base, recipe.model.dropout)
        if recipe.grow:
            network = grow(network, recipe.model, recipe.schedule.seed)
        if recipe.tokenizer.style == "fields" and not request.lora_rank:
            network = with_twins(network, twins(tokenizer))
        if request.lora_rank:
            torch.manual_seed(recipe.schedule.seed)
            add_lora(network, request.lora_rank)
        return network, tokenizer
    if request.lora_rank:
        raise RecipeError("a LoRA rank needs a base folder to adapt")
    tokenizer = tokenizer_for(recipe, corpus, run_dir)
    pairs = twins(tokenizer) if recipe.tokenizer.style == "fields" else None
    network = Llama(recipe.model, tokenizer.get_vocab_size(), twins=pairs)
    network.initialize(recipe.schedule.seed)
    if recipe.tokenizer.warm_start and (request.fresh or not (run_dir / "checkpoint.pt").is_file()):
        warm_start(network, corpus, tokenizer)
    return network, tokenizer


def _schedule(
    request: TrainingRequest, schedule: Schedule, documents: list[TokenizedDocument]
) -> Schedule:
    if request.base is not None and request.recipe is None:
        # gentle: most of what the base knows is to stay
        schedule = replace(
            schedule, matrix_lr=schedule.matrix_lr / 10, other_lr=schedule.other_lr / 4
        )
    if request.tokens is not None:
        return replace(schedule, tokens=request.tokens)
    if request.recipe is not None:
        return schedule
    once = sum(len(row.ids) for document in documents for row in document.variants[0])
    epochs = _FINE_TUNE_EPOCHS if request.base else _OWN_EPOCHS
    return replace(schedule, tokens=max(_MIN_TOKENS, min(_MAX_TOKENS, epochs * once)))
