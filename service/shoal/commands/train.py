"""`shoal train`: builds a training request from the flags, runs it and prints progress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands.terminal import fail

if TYPE_CHECKING:
    from shoal.train.loop import StepReport

SHOWN_EVERY_STEPS = 20
LENGTH = "Length"
FINE_TUNING = "Fine-tuning"


def train(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Model folder to write.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="A text, JSONL or JSONL.xz file; with --recipe the folder of its data files.",
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Recipe file, or a folder with recipe.toml. A recipe may name Python code of its "
            "own, which is run: use only recipes you trust.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Model folder to start from: at the learning rates of --recipe, else at low ones.",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="RANK",
            help="Train LoRA adapters of this rank only; they are merged at the end.",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens to train on.", rich_help_panel=LENGTH),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, metavar="N", help="Finish within this time.", rich_help_panel=LENGTH
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue a run that was stopped.", rich_help_panel=LENGTH)
    ] = True,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Checkpoints and log. Default: runs/<name of the model>",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="cpu or cuda. Default: cuda where there is one"),
    ] = None,
) -> None:
    """Train a small model on your own text or by a recipe; the result is a folder to serve.

    Ctrl-C keeps the last checkpoint; the same command continues from it.
    """
    if lora is not None and base is None:
        fail("--lora adapts a model: name it with --from", 2)
    from shoal.errors import ModelFolderError

    try:
        from shoal.train.config import RecipeError, load_recipe
        from shoal.train.report import progress_bar
        from shoal.train.run import TrainingRequest, run_training
    except ModuleNotFoundError as error:
        extra = "torch" if error.name == "torch" else "server,torch"
        fail(f"training needs the package {error.name}: pip install 'shoal[{extra}]'", 2)
    request = TrainingRequest(
        out=out,
        data=data,
        recipe=recipe,
        base=base,
        lora_rank=lora,
        tokens=tokens,
        limit_s=None if minutes is None else 60 * minutes,
        run_dir=run_dir,
        fresh=not resume,
        device=device,
    )
    try:
        if recipe is not None and (code := load_recipe(recipe).code) is not None:
            print(f"running the recipe's own code: {code}")
        if sys.stdout.isatty():
            with progress_bar(f"training {out.name}") as show:
                result = run_training(request, show)
        else:
            result = run_training(request, _print_step)
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
    print(f"Serve it with: shoal serve --model {result.out}")


def _print_step(report: StepReport) -> None:
    if report.step % SHOWN_EVERY_STEPS:
        return
    print(
        f"step {report.step}  {report.share_done:.0%}  loss {report.loss:.3f}  "
        f"{report.tokens_per_s:,.0f} tokens/s  {report.left_s / 60:.0f} min left",
        flush=True,
    )
