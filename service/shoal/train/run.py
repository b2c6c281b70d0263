"""`run_training`: from a recipe or a user's own file to a Hugging Face folder.

The wiring of this package: data, tokenizer, network, loop, export. Holds no training logic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from shoal.checkpoint.open import open_model
from shoal.train.base import load_base, reads_twice
from shoal.train.card import write_card
from shoal.train.config import Recipe, RecipeError, Schedule, Source, load_recipe
from shoal.train.corpora import read_corpus, source_digests, tokenizer_texts
from shoal.train.export import export_folder
from shoal.train.finetune.folder import check_out
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.run import fine_tune
from shoal.train.finetune.settings import FineTuneRequest
from shoal.train.grow import grow
from shoal.train.heldout import held_out_check
from shoal.train.hooks import Initialize, load_hooks
from shoal.train.loop import Trainer, Watch
from shoal.train.network import Llama, with_twins
from shoal.train.packing import TokenizedDocument, tokenize_documents
from shoal.train.pieces import Corpus
from shoal.train.progress import StepReport, TrainingResult
from shoal.train.report import write_loss_plot
from shoal.train.run_folder import RESULT, RunFolder, choose_run_dir, result_of
from shoal.train.tokenizer import train_tokenizer, twins

_OWN_EPOCHS = 12  # of a user's own file, where no recipe says how long
_MIN_TOKENS, _MAX_TOKENS = 50_000, 50_000_000


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train, on what, and where the result goes."""

    out: Path  # the model folder to write
    data: Path  # with a recipe the folder of its files, else a text, JSONL or JSONL.xz file
    recipe: Path | None = None  # a recipe file, or a folder with recipe.toml; runs its code
    base: Path | None = None  # a model folder to start from instead of random weights
    tokens: int | None = None  # overrides the recipe's length
    limit_s: float | None = None  # finish, decay included, within this many seconds
    run_dir: Path | None = None  # checkpoints and log; default: see choose_run_dir
    fresh: bool = False  # forget a run that is in run_dir already
    device: str | None = None  # default: cuda where there is one, else cpu


def run_training(
    request: TrainingRequest, on_step: Callable[[StepReport], None] = lambda report: None
) -> TrainingResult:
    """Train, checkpoint, export. Continues a run that was stopped, unless `fresh`. With a base and
    no recipe the base is fine-tuned, all of its weights: see `finetune.run` for more choices.

    Raises `RecipeError` when recipe, data or base folder cannot be used.
    """
    if request.base is not None and request.recipe is None:
        return _fine_tune(request, request.base, on_step)
    recipe, data_dir = _recipe_of(request)
    if request.base is not None and reads_twice(request.base):
        recipe = replace(recipe, read_twice=True)
    run_dir = request.run_dir or choose_run_dir(recipe.name, request.out)
    check_out(request.out, request.base, run_dir)
    hooks = load_hooks(recipe.code)
    corpus = read_corpus(recipe, data_dir, hooks.readers, request.base)
    identity = {
        "recipe": recipe.name if request.recipe is not None else None,
        "base": request.base and open_model(request.base).weights_hash,
        "data": source_digests(recipe.sources, data_dir),
        RESULT: result_of(request.out),
    }
    with RunFolder(run_dir, identity).claimed(overwrite=request.fresh):
        return _train(request, recipe, corpus, run_dir, hooks.initialize, on_step)


def _train(
    request: TrainingRequest,
    recipe: Recipe,
    corpus: Corpus,
    run_dir: Path,
    initialize: Initialize | None,
    on_step: Callable[[StepReport], None],
) -> TrainingResult:
    network, tokenizer = _network(request, recipe, corpus, run_dir, initialize)
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
    trainer.resume()
    progress = trainer.run()
    network.eval()
    figures = held_out_check(corpus, tokenizer, recipe.model.context, most=None)(network)
    plot = run_dir / "loss.png"
    drawn = write_loss_plot(progress, plot)
    write_card(request.out, recipe, progress, figures, _command(request))
    count = sum(weight.numel() for weight in network.parameters())
    return TrainingResult(
        request.out,
        run_dir,
        count,
        progress,
        figures,
        plot if drawn else None,
        f"shoal serve --model {request.out}",
    )


def _fine_tune(
    request: TrainingRequest, base: Path, on_step: Callable[[StepReport], None]
) -> TrainingResult:
    asked = FineTuneRequest(
        out=request.out,
        data=request.data,
        base=base,
        run_dir=request.run_dir,
        overwrite=request.fresh,
        device=request.device,
        tokens=request.tokens,
        limit_s=request.limit_s,
    )
    return fine_tune(asked, Observer(on_step=on_step))


def _command(request: TrainingRequest) -> str:
    """The command line of the same run."""
    options = {
        "data": request.data,
        "out": request.out,
        "recipe": request.recipe,
        "from": request.base,
        "tokens": request.tokens,
        "minutes": request.limit_s and f"{request.limit_s / 60:g}",
    }
    flags = [f"--{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(["shoal train", *flags])


def _recipe_of(request: TrainingRequest) -> tuple[Recipe, Path]:
    if request.recipe is not None:
        return load_recipe(request.recipe), request.data
    if not request.data.is_file():
        raise RecipeError(
            f"{request.data} is not a file; without a recipe, give a text or JSONL file"
        )
    own = Source(file=request.data.name, title="your own file", hold_out_share=0.02)
    return Recipe(name=request.out.name, sources=(own,)), request.data.parent


def _network(
    request: TrainingRequest,
    recipe: Recipe,
    corpus: Corpus,
    run_dir: Path,
    initialize: Initialize | None,
) -> tuple[Llama, Tokenizer]:
    if request.base is not None:
        return _network_from_base(request.base, recipe)
    tokenizer = _tokenizer(recipe, corpus, run_dir)
    shared_rows = twins(tokenizer) if recipe.tokenizer.style == "fields" else None
    network = Llama(recipe.model, tokenizer.get_vocab_size(), twins=shared_rows)
    network.initialize(recipe.schedule.seed)
    resumes = (run_dir / "checkpoint.pt").is_file()
    if initialize is not None and not resumes:
        initialize(network, corpus, tokenizer)
    return network, tokenizer


def _network_from_base(base: Path, recipe: Recipe) -> tuple[Llama, Tokenizer]:
    network, tokenizer = load_base(base, recipe.model.dropout)
    if recipe.grow:
        network = grow(network, recipe.model, recipe.schedule.seed)
    if recipe.tokenizer.style == "fields":
        network = with_twins(network, twins(tokenizer))
    return network, tokenizer


def _tokenizer(recipe: Recipe, corpus: Corpus, run_dir: Path) -> Tokenizer:
    """The tokenizer of an earlier start of this run, or a new one."""
    path = run_dir / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    tokenizer = train_tokenizer(tokenizer_texts(corpus), recipe.tokenizer)
    run_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def _schedule(
    request: TrainingRequest, schedule: Schedule, documents: list[TokenizedDocument]
) -> Schedule:
    if request.tokens is not None:
        return replace(schedule, tokens=request.tokens)
    if request.recipe is not None:
        return schedule
    once = sum(len(row.ids) for document in documents for row in document.variants[0])
    return replace(schedule, tokens=max(_MIN_TOKENS, min(_MAX_TOKENS, _OWN_EPOCHS * once)))
