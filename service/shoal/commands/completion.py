"""What a shell completes: names of models, for `run`, `pull` and `--model`."""

from __future__ import annotations

from pathlib import Path


def complete_model(incomplete: str) -> list[str]:
    """Models in the folders where `shoal serve` looks, and files and folders."""
    from shoal.commands.line_input import complete_files
    from shoal.commands.local_models import local_names

    names = [name for name in local_names(_models_dir()) if name.startswith(incomplete)]
    return names + [path for path in complete_files(incomplete) if "/" in incomplete]


def complete_served(incomplete: str) -> list[str]:
    """Models of the server at the usual address; where none runs, those in the folders."""
    from shoal import Client, Error

    try:
        with Client(timeout=1.0, max_retries=0) as client:
            names = [model.id for model in client.models.list().data]
    except (Error, ValueError):
        return [name for name in complete_model(incomplete) if "/" not in name]
    return [name for name in names if name.startswith(incomplete)]


def complete_catalogue(incomplete: str) -> list[str]:
    """Models that `shoal pull` fetches."""
    from shoal.checkpoint.catalogue import beside_code, models_folders, read_catalogue
    from shoal.errors import ConfigError

    try:
        entries = read_catalogue(*models_folders(_models_dir()), beside_code())
    except ConfigError:
        return []
    return [name for name in entries if name.startswith(incomplete)]


def complete_addable(incomplete: str) -> list[str]:
    """Models that `shoal pull` fetches, and files and folders."""
    from shoal.commands.line_input import complete_files

    return complete_catalogue(incomplete) + complete_files(incomplete)


def _models_dir() -> Path | None:
    """Of the settings; a wrong setting is told by the command itself."""
    from pydantic import ValidationError

    from shoal.config import load_settings
    from shoal.errors import ConfigError

    try:
        return load_settings().models_dir
    except (ValidationError, ConfigError, ValueError):
        return None
