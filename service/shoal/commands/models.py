"""`shoal models`: lists the models of a running server or of a local folder, and adds to it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.commands.completion import complete_addable
from shoal.commands.pull import pull
from shoal.commands.terminal import ApiKey, BaseUrl, connected, fail, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from shoal.commands.model_folders import ModelFolder


def models(
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="PATH", help="Look into this folder, not at a server."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    add: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|NAME",
            help="Put a model folder or GGUF file where `shoal serve` looks (or into --dir), as a "
            "link; NAME=PATH names it. The name of a model of the catalogue is pulled.",
            autocompletion=complete_addable,
        ),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="With --add: copy it.")] = False,
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove a link that --add made.")
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """List the models of a running server, or with --dir those in a folder; add or remove one.

    Exit code 1 when a folder is damaged or its files are not those of its lock file, and when a
    model to add cannot be loaded.
    """
    if copy and add is None:
        fail("--copy goes with --add", 2)
    if add is not None and remove is not None:
        fail("give --add or --remove, not both", 2)
    if add is not None or remove is not None:
        _change(folder, add, remove, copies=copy)
        return
    if folder is None:
        with connected(base_url, api_key) as client:
            answer = client.models.list()
        listed = [model.model_dump(mode="json") for model in answer.data]
        listed += [{**model, "ready": False} for model in getattr(answer, "failed", [])]
        _print(listed, _server_table(listed), as_json)
        return
    from shoal.checkpoint.find import name_of
    from shoal.commands.model_folders import find_folders, read_folder
    from shoal.protocol.messages import ModelSource

    if not folder.is_dir():
        fail(f"folder {folder} does not exist", 2)
    found = [read_folder(ModelSource(name_of(path), str(path))) for path in find_folders(folder)]
    if not found:
        fail(f"no model in {folder}")
    _print([asdict(model) for model in found], _folder_table(found), as_json)
    if any(model.problems for model in found):
        raise typer.Exit(1)


def _change(folder: Path | None, add: str | None, remove: str | None, *, copies: bool) -> None:
    """Adds a model to the folder, or where there is none to the first that is searched, or removes
    one from it."""
    from shoal.checkpoint.catalogue import beside_code, models_folders, read_catalogue
    from shoal.checkpoint.find import parse_model
    from shoal.commands.added_models import add_model, remove_model
    from shoal.commands.serve import checked_settings
    from shoal.errors import ConfigError, ShoalError

    settings = checked_settings(None, {} if folder is None else {"models_dir": folder})
    try:
        folders = models_folders(settings.models_dir)
        if remove is not None:
            for link in remove_model(remove, folders[0]):
                print(f"removed the link {link}")
            return
        assert add is not None
        if not os.path.exists(add) and add in read_catalogue(*folders, beside_code()):
            pull([add], folder)
            return
        source = parse_model(add, settings.models_dir)
        target = add_model(source, folders, settings, copies=copies)
        how = "copied to" if copies else "linked as"
        print(f"{source.name} loads; {how} {target}. `shoal serve` finds it.")
    except ConfigError as error:
        fail(error.message, 2)
    except ShoalError as error:
        fail(error.message)


def _print(values: list[dict[str, Any]], table: Table, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    print_table(table)


def _server_table(listed: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("model", "context", "ready", "can", header_style="bold")
    for model in listed:
        ready = model.get("ready")
        table.add_row(
            str(model.get("id")),
            str(model.get("max_model_len") or "–"),
            "–" if ready is None else "yes" if ready else _not_ready_text(model),
            ", ".join(model.get("capabilities") or []) or "–",
        )
    return table


def _not_ready_text(model: dict[str, Any]) -> str:
    return f"failed: {model['reason']}" if model.get("reason") else "loading"


def _folder_table(found: list[ModelFolder]) -> Table:
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("model")
    for title in ("parameters", "dtype", "size", "context"):
        table.add_column(title, justify="right")
    table.add_column("lock")
    table.add_column("problems", style="red")
    for model in found:
        table.add_row(
            model.name,
            f"{model.num_parameters / 1e6:,.1f} M",
            ", ".join(model.dtypes) or "–",
            f"{model.num_bytes / 1e6:,.1f} MB",
            str(model.max_model_len or "–"),
            {"verified": "✓ verified", "none": "no lock", "damaged": "✗ damaged"}[model.lock],
            "\n".join(model.problems),
        )
    return table
