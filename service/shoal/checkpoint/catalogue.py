"""catalogue.toml: models that `shoal pull` fetches, and the folders where models are looked for.

Standard library only: `make serve` pulls while the packages of the server are being installed.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shoal.errors import ConfigError

CATALOGUE = "catalogue.toml"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*")
_ENTRY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


_KINDS: Mapping[str, type] = {
    "description": str,
    "package": str,
    "version": str,
    "wheel_sha256": str,
    "wheel_bytes": int,
    "licence": str,
}
"""Keys of every entry."""
_ONE_FILE: Mapping[str, type] = {"file": str, "file_sha256": str, "file_bytes": int}
_SEVERAL: Mapping[str, type] = {"files_in": str, "files": dict}
_OF_FILE: Mapping[str, type] = {"sha256": str, "bytes": int}
_SUFFIXES = (".json", ".safetensors", ".md")
"""Of the files of a folder: none of them is code."""


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file in a wheel."""

    path: str
    """In the wheel."""
    name: str
    """In the model's folder; "" where the model is this file."""
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue: a GGUF file in a wheel, or a folder of files."""

    name: str
    description: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    licence: str
    files: tuple[WheelFile, ...]
    folder: Path
    """Where the catalogue lies, and beside it the sidecars of its models."""

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)

    def path_in(self, folder: Path) -> Path:
        """Where the model lies in a folder of models."""
        return folder / (self.name if self.files[0].name else f"{self.name}.gguf")


def beside_code() -> Path:
    """The folder of models that come with a checkout of Shoal."""
    return Path(__file__).resolve().parents[3] / "models"


def models_folders(models_dir: Path | None) -> list[Path]:
    """The folders that are searched for models, in order: `models_dir` alone, else ./models and
    the one beside Shoal, whichever are there. Of two models of one name the first is meant. Raises
    ConfigError when there is no such folder."""
    candidates = [models_dir] if models_dir else [Path("models"), beside_code()]
    found: dict[Path, Path] = {}
    for candidate in candidates:
        if candidate.is_dir():
            found.setdefault(candidate.resolve(), candidate)
    if not found:
        raise ConfigError(
            f"models_dir {candidates[0]} is not a folder: name a model with --model PATH"
        )
    return list(found.values())


def read_catalogue(*folders: Path) -> dict[str, Entry]:
    """Entries by name, in order, from the first of these folders that has a catalogue; empty where
    none has. Raises ConfigError for a catalogue that cannot be read."""
    for folder in folders:
        path = folder / CATALOGUE
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        try:
            tables = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return {name: _entry(path, name, table) for name, table in tables.items()}
    return {}


def _entry(path: Path, name: str, table: object) -> Entry:
    shape = _SEVERAL if isinstance(table, Mapping) and "files" in table else _ONE_FILE
    given = _checked(path, name, table, {**_KINDS, **shape})
    files = _files(path, name, given)
    hashes = (given["wheel_sha256"], *(file.sha256 for file in files))
    if not _ENTRY_NAME.fullmatch(name) or not all(map(_SHA256.fullmatch, hashes)):
        raise ConfigError(f"{path}: [{name}] needs a plain name and SHA-256 of 64 hex digits")
    if min(given["wheel_bytes"], *(file.num_bytes for file in files)) <= 0:
        raise ConfigError(f"{path}: sizes of [{name}] must be positive")
    common = {key: given[key] for key in _KINDS}
    return Entry(name=name, files=files, folder=path.parent, **common)


def _checked(path: Path, name: str, table: object, kinds: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(table, Mapping) or table.keys() != kinds.keys():
        raise ConfigError(f"{path}: [{name}] must have exactly the keys {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(table[key]) is not kind:
            raise ConfigError(f"{path}: {key} of [{name}] must be of type {kind.__name__}")
    return dict(table)


def _files(path: Path, name: str, given: Mapping[str, Any]) -> tuple[WheelFile, ...]:
    if "files" not in given:
        if not _is_inside(given["file"]) or not given["file"].endswith(".gguf"):
            raise ConfigError(
                f"{path}: file of [{name}] must be the path of a GGUF file in the wheel"
            )
        return (WheelFile(given["file"], "", given["file_sha256"], given["file_bytes"]),)
    files = []
    for inner, table in given["files"].items():
        about = _checked(path, f"{name}.files.{inner}", table, _OF_FILE)
        if not _is_inside(inner) or not inner.endswith(_SUFFIXES):
            raise ConfigError(
                f"{path}: files of [{name}] must be paths of {', '.join(_SUFFIXES)} in its folder"
            )
        files.append(
            WheelFile(f"{given['files_in']}/{inner}", inner, about["sha256"], about["bytes"])
        )
    if not files or not _is_inside(given["files_in"]):
        raise ConfigError(f"{path}: files_in of [{name}] must be a folder in the wheel with files")
    return tuple(files)


def _is_inside(name: str) -> bool:
    inside = PurePosixPath(name)
    is_hidden = any(part.startswith(".") for part in inside.parts)
    return bool(inside.parts) and not inside.is_absolute() and not is_hidden
