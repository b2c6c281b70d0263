"""The first model card of a trained folder, MODEL.md. An existing card is never overwritten."""

from __future__ import annotations

from pathlib import Path

from shoal.checkpoint.lock import CARD
from shoal.train.config import ModelShape, Recipe
from shoal.train.finetune.folder import replace_file
from shoal.train.progress import Progress


def write_card(
    out: Path, recipe: Recipe, progress: Progress, held_out: dict[str, float], command: str
) -> None:
    """Write `out`/MODEL.md unless there is one. `recipe.model` is the shape that was trained."""
    path = out / CARD
    if not path.exists():
        text = _card(out.name, recipe, progress, held_out, command)
        replace_file(path, lambda file: file.write(text.encode()))


def _card(
    name: str, recipe: Recipe, progress: Progress, held_out: dict[str, float], command: str
) -> str:
    sources = "\n".join(
        f"| {source.title or source.file} | {source.licence or 'not stated'} "
        f"| {source.origin or source.file} |"
        for source in recipe.sources
    )
    quality = "\n".join(f"| {figure} | {value:.3f} |" for figure, value in held_out.items())
    minutes = progress.elapsed_s / 60
    return f"""# {name}

{recipe.summary or "A small language model of the Llama architecture."}

| | |
| --- | --- |
| Shape | {_shape(recipe.model)} |
| Context | {recipe.model.context} tokens |
| Trained on | {progress.tokens:,} tokens, {progress.step:,} steps, {minutes:.1f} minutes |

## Use

    shoal serve --model {name}

Plain text is continued; a question goes through the chat template of the folder.

## Data

| Source | Licence | From |
| --- | --- | --- |
{sources}

## Quality

On held-out data:

| Figure | |
| --- | ---: |
{quality or "| nothing was held out | |"}

## Made with

    {command}
"""


def _shape(shape: ModelShape) -> str:
    return (
        f"hidden size {shape.hidden_size}, {shape.num_layers} layers, {shape.num_heads} heads of "
        f"{shape.head_dim}, {shape.num_kv_heads} KV heads, MLP {shape.intermediate_size}"
    )
