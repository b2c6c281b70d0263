"""Puts a model where `shoal serve` looks, as a link or a copy, and takes links away again.

Links that were made here are noted in a hidden file of the folder: only those are ever removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ConfigError, ShoalError

if TYPE_CHECKING:
    from shoal.config import Settings
    from shoal.protocol.messages import ModelSource

NOTES = ".added.json"
"""Name of a link -> where it leads."""


def add_model(
    source: ModelSource, folders: Sequence[Path], settings: Settings, *, copies: bool
) -> Path:
    """Loads a model as `shoal serve` would, then puts it into the first of `folders`, which it
    searches, under its name; returns where it is. Raises ConfigError for a path or a name that
    cannot be taken, and ShoalError for a model that cannot be served or a folder that cannot be
    written."""
    from shoal.checkpoint.sidecars import SIDECARS, sidecar
    from shoal.commands.check import examine
    from shoal.config import engine_config

    folder, path = folders[0], Path(os.path.abspath(source.path))
    if source.aliases:
        raise ConfigError("one name is enough: NAME=PATH")
    if not path.exists():
        raise ConfigError(f"{path} does not exist: give a model folder or a GGUF file")
    target = folder / (source.name if path.is_dir() else f"{source.name}{path.suffix}")
    if target.parent != folder:
        raise ConfigError(f"a name in {folder} has no slash: NAME={path}")
    if any(path.is_relative_to(each.absolute()) for each in folders):
        raise ConfigError(f"{path} is where `shoal serve` looks already")
    if os.path.lexists(target):
        raise ConfigError(f"{target} is there already: choose another name, NAME={path}")
    report = examine(source, engine_config(settings, (source,)), measures=False)
    if report.problem is not None:
        raise ShoalError(f"{path} cannot be served: {report.problem}")
    pairs = [(path, target)]
    if path.is_file():
        besides = [(sidecar(path, name), sidecar(target, name)) for name in SIDECARS]
        pairs += [pair for pair in besides if pair[0].is_file() and not os.path.lexists(pair[1])]
    try:
        if copies:
            _copy(pairs, folder / f".{target.name}.adding")
        else:
            _link(pairs, folder)
    except OSError as error:
        raise ShoalError(f"{folder} cannot take {source.name}: {error.strerror}") from error
    return target


def remove_model(name: str, folder: Path) -> list[Path]:
    """Removes the links of a model that `add_model` made; what they lead to stays. Returns them.
    Raises ConfigError for anything else of that name."""
    from shoal.checkpoint.sidecars import SIDECARS, sidecar

    notes = _read_notes(folder)
    main = next((each for each in notes if each == name or Path(each).stem == name), None)
    if main is None:
        links = ", ".join(notes) or "none"
        raise ConfigError(f"{name} is no link that --add made in {folder}; those are: {links}")
    besides = [sidecar(folder / main, each).name for each in SIDECARS]
    removed = []
    try:
        for each in [main, *besides]:
            link = folder / each
            if each in notes and link.is_symlink() and os.readlink(link) == notes.pop(each):
                link.unlink()
                removed.append(link)
        _write_notes(folder, notes)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be changed: {error.strerror}") from error
    return removed


def _link(pairs: list[tuple[Path, Path]], folder: Path) -> None:
    """All of them and the note, or nothing. Raises OSError."""
    made: list[Path] = []
    try:
        for path, target in pairs:
            target.symlink_to(path)
            made.append(target)
        _write_notes(folder, _read_notes(folder) | {to.name: str(path) for path, to in pairs})
    except BaseException:
        for link in made:
            link.unlink()
        raise


def _copy(pairs: list[tuple[Path, Path]], unfinished: Path) -> None:
    """The model appears whole or not at all. Raises OSError."""
    try:
        for path, target in reversed(pairs):  # the model itself last
            if path.is_dir():
                shutil.copytree(path, unfinished)
            else:
                shutil.copyfile(path, unfinished)
            unfinished.replace(target)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _read_notes(folder: Path) -> dict[str, str]:
    path = folder / NOTES
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    is_map = isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())
    if not is_map or any("/" in name for name in notes):
        raise ConfigError(f"{path} must hold names of links and where they lead: move it away")
    return dict(notes)


def _write_notes(folder: Path, notes: dict[str, str]) -> None:
    path = folder / NOTES
    if not notes:
        path.unlink(missing_ok=True)
        return
    unfinished = folder / f"{NOTES}.new"
    unfinished.write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
