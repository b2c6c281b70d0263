"""Which models the settings name, and which of those cannot be opened at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.checkpoint.open import looks_like_model, open_model
from shoal.errors import ConfigError, ModelFolderError
from shoal.protocol.messages import ModelSource


@dataclass(frozen=True, slots=True)
class ModelSelection:
    """What to load, and what lies beside it and is none."""

    sources: tuple[ModelSource, ...]
    failed: Mapping[str, str]
    """Name -> why it cannot be loaded, of models that were searched for, not named."""


def find_models(
    models: Sequence[str], models_dir: Path | None, default_model: str | None
) -> ModelSelection:
    """`models`: each PATH or NAME=PATH, in this order; empty = all of `models_dir`, by name.
    Names are unique.

    What is named must load. Of a searched folder the others are served when one does not; only
    `default_model`, and the last that is left, must. Raises ConfigError or ModelFolderError."""
    searched = [] if models else _models_in(_search_root(models_dir))
    sources = [_parse_model(entry) for entry in models] or [
        ModelSource(_name_of(path), str(path), may_fail=True)
        for path in searched
    ]
    names = [source.name for source in sources]
    if not names:
        raise ConfigError("no model folder found: name one with --model PATH")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two models are named {twice[0]}: use --model NAME=PATH")
    if default_model is not None and default_model not in names:
        raise ConfigError(f"default_model {default_model} is none of {', '.join(names)}")
    failed: dict[str, str] = {}
    usable: list[ModelSource] = []
    for source in sources:
        if source.name == default_model:
            source = ModelSource(source.name, source.path)
        try:
            open_model(Path(source.path))
        except ModelFolderError as error:
            if not source.may_fail or len(failed) + 1 == len(sources):
                raise
            failed[source.name] = error.message
        else:
            usable.append(source)
    return ModelSelection(tuple(usable), failed)


def _parse_model(entry: str) -> ModelSource:
    """A path may hold "=" itself: what exists as a whole is one, and so is what begins as no
    name does."""
    name, equals, path = entry.partition("=")
    if not equals or Path(entry).exists() or name.startswith(("/", ".", "~")):
        return ModelSource(_name_of(Path(entry).resolve()), entry)
    return ModelSource(name, path)


def _name_of(path: Path) -> str:
    """A file's name says its format too, a folder's does not."""
    return path.stem if path.suffix == ".gguf" and not path.is_dir() else path.name


def _models_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if looks_like_model(path))


def _search_root(models_dir: Path | None) -> Path:
    beside_code = Path(__file__).resolve().parents[3] / "models"
    candidates = [models_dir] if models_dir else [Path("models"), beside_code]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"models_dir {candidates[0]} is not a folder: name a model with --model PATH")
