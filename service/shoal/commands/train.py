"""`shoal train`: builds a training request from the flags, runs it and prints progress."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.commands.terminal import fail

FINE_TUNING, ADAPTERS = "Fine-tuning, with --from", "LoRA, with --lora-rank"
LENGTH, RUN = "Length", "Run"


def train(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Your rows: JSONL, JSON, CSV, Parquet or plain text, one file or a folder of "
            "them; with --recipe the folder of its data files.",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Model to teach: a folder, a GGUF file, or a name as `shoal serve` knows it, such "
            "as smollm2. Without it a new model is trained.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Recipe file, or a folder with recipe.toml. A recipe may name Python code of its "
            "own, which is run: use only recipes you trust.",
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Passes over the rows.", rich_help_panel=LENGTH, show_default=False
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens to train on.", rich_help_panel=LENGTH),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="N",
            help="Finish within this time: the rate falls by the clock.",
            rich_help_panel=LENGTH,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Highest learning rate.", rich_help_panel=FINE_TUNING),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="ROWS", help="Rows per step.", rich_help_panel=FINE_TUNING),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Longest row.", rich_help_panel=FINE_TUNING),
    ] = None,
    eval_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the rows that is held out; 0 holds out none.",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Of the order and choice of rows. Default: 1",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            "--lora-rank",
            "--lora",
            metavar="RANK",
            help="Learn an adapter of this rank, not all weights.",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            help="Its output times ALPHA / RANK. Default: twice the rank",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    lora_targets: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Modules it changes, such as q_proj,v_proj. Default: all-linear",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Write a whole model, not an adapter.", rich_help_panel=ADAPTERS
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="With --from: print tokens, steps, memory and time; write nothing.",
            rich_help_panel=RUN,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            "--no-resume",
            help="Begin anew and replace what is there; without it a run that was stopped goes on.",
            rich_help_panel=RUN,
        ),
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Checkpoints, log and loss curve. Default: runs/<name of --out>, with the folders "
            "above it where another output has that",
            rich_help_panel=RUN,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cpu or cuda. Default: cuda where there is one",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Teach a model your own rows, or train a small one from nothing.

    What no flag says is chosen from the size of the data and of the model, and shown with the
    reason. Ctrl-C saves; the same command goes on.
    """
    fine_tuning: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "eval_share": eval_share,
        "seed": seed,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
        "lora_targets": lora_targets and tuple(name.strip() for name in lora_targets.split(",")),
        "merge": merge or None,
    }
    given = {name: value for name, value in fine_tuning.items() if value is not None}
    common: dict[str, Any] = {
        "out": out,
        "data": data,
        "tokens": tokens,
        "limit_s": None if minutes is None else 60 * minutes,
        "run_dir": run_dir,
        "device": device,
    }
    if base is not None and recipe is None:
        _teach({**common, **given, "base": Path(base), "overwrite": overwrite}, dry_run)
    else:
        for name in given:
            fail(f"{_flag(name)} is of fine-tuning, which --from without --recipe does", 2)
        if dry_run:
            fail("--dry-run is of fine-tuning, which --from without --recipe does", 2)
        _train_new({**common, "base": base and Path(base), "recipe": recipe, "fresh": overwrite})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _teach(asked: dict[str, Any], dry_run: bool) -> None:
    """Fine-tuning. `asked`: fields of a FineTuneRequest."""
    _need_packages()
    from shoal.commands.teach import teach

    teach(asked, dry_run=dry_run)


def _need_packages() -> None:
    for name, extra in (("torch", "torch"), ("tokenizers", "server,torch")):
        if find_spec(name) is None:
            fail(f"training needs the package {name}: pip install 'shoal[{extra}]'", 2)


def _train_new(asked: dict[str, Any]) -> None:
    """Training by a recipe or on own text. `asked`: fields of a TrainingRequest."""
    _need_packages()
    from shoal.commands.teach import Display
    from shoal.errors import ModelFolderError
    from shoal.train.config import RecipeError, load_recipe
    from shoal.train.run import TrainingRequest, run_training

    request = TrainingRequest(**asked)
    try:
        if request.recipe is not None and (code := load_recipe(request.recipe).code) is not None:
            print(f"running the recipe's own code: {code}")
        with ExitStack() as stack:
            display = Display(f"training {request.out.name}", stack)
            result = run_training(request, display.on_step)
    except (RecipeError, ModelFolderError) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from the last checkpoint")
        raise typer.Exit(130) from None
    print(f"\n{result.num_parameters / 1e6:.1f} M parameters in {result.out}")
    for name, value in sorted(result.held_out.items()):
        print(f"  held out {name}: {value:.4f}")
    if result.plot is not None:
        print(f"  loss curve: {result.plot}")
    print(f"Serve it with: {result.serve}")
