"""catalogue.toml: models that `shoal pull` fetches, and the folders where models are looked for.

Standard library only: `make serve` pulls while the packages of the server are being installed.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_type_hints

from shoal.errors import ConfigError

CATALOGUE = "catalogue.toml"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*")
_ENTRY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue: a file in a wheel."""

    name: str
    description: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    file: str
    """Path of the GGUF file in the wheel."""
    file_sha256: str
    file_bytes: int
    licence: str
    folder: Path
    """Where the catalogue lies, and beside it the sidecars of its models."""

    def path_in(self, folder: Path) -> Path:
        """Where the file lies in a folder of models."""
        return folder / f"{self.name}.gguf"


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
    kinds = get_type_hints(Entry)
    del kinds["name"], kinds["folder"]
    if not isinstance(table, Mapping) or table.keys() != kinds.keys():
        raise ConfigError(f"{path}: [{name}] must have exactly the keys {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(table[key]) is not kind:
            raise ConfigError(f"{path}: {key} of [{name}] must be of type {kind.__name__}")
    entry = Entry(name=name, folder=path.parent, **table)
    hashes = (entry.wheel_sha256, entry.file_sha256)
    inside = PurePosixPath(entry.file)
    if not _ENTRY_NAME.fullmatch(name) or not all(map(_SHA256.fullmatch, hashes)):
        raise ConfigError(f"{path}: [{name}] needs a plain name and two SHA-256 in hex digits")
    if inside.is_absolute() or ".." in inside.parts or inside.suffix != ".gguf":
        raise ConfigError(f"{path}: file of [{name}] must be the path of a GGUF file in the wheel")
    if min(entry.wheel_bytes, entry.file_bytes) <= 0:
        raise ConfigError(f"{path}: sizes of [{name}] must be positive")
    return entry
