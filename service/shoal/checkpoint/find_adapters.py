"""Which adapters the settings name, and which model each of them changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.checkpoint.adapter import AdapterFolder
from shoal.errors import ConfigError
from shoal.protocol.messages import AdapterSource, ModelSource


def find_adapters(
    entries: Sequence[str], models: Sequence[ModelSource]
) -> tuple[AdapterSource, ...]:
    """`entries`: each PATH or NAME=PATH, with @MODEL behind it where the base is not clear. Raises
    ConfigError, also for a path where nothing is, or ModelFolderError for a folder that is no
    adapter Shoal can read."""
    bases = base_paths(models)
    found: list[AdapterSource] = []
    for adapter_id, entry in enumerate(entries, 1):
        name, path, base = _parse(entry, bases)
        if name in bases or name in [other.name for other in found]:
            raise ConfigError(f"two models are named {name}: use --adapter NAME=PATH")
        if not Path(path).exists():
            raise ConfigError(f"adapter {name}: there is no {path}")
        model = find_base(AdapterFolder(Path(path)), name, base, bases)
        found.append(AdapterSource(name, model, path, adapter_id))
    return tuple(found)


def base_paths(models: Sequence[ModelSource]) -> dict[str, str]:
    """Name -> path of the models that adapters may change."""
    return {model.name: model.path for model in models}


def find_base(
    folder: AdapterFolder, name: str, wanted: str | None, bases: Mapping[str, str]
) -> str:
    """The model an adapter changes: the wanted one, else the one that its config names, else the
    only one. Raises ConfigError, or ModelFolderError for a folder that is no adapter."""
    config = folder.config()
    known = ", ".join(bases)
    if wanted is not None:
        if wanted not in bases:
            raise ConfigError(f"adapter {name}: its base {wanted} is none of {known}")
        return wanted
    if config.base_model is not None:
        trained_on = Path(config.base_model)
        for base, path in bases.items():
            if trained_on.name in (base, Path(path).resolve().name):
                return base
    if len(bases) == 1:
        return next(iter(bases))
    raise ConfigError(
        f"adapter {name} was trained on {str(config.base_model)[:100]}, which is none of {known}: "
        "name its base, NAME=PATH@MODEL"
    )


def _parse(entry: str, bases: Mapping[str, str]) -> tuple[str, str, str | None]:
    """(name, path, base). A path may hold "=" and "@" itself: what exists as a whole is one."""
    name, equals, path = entry.partition("=")
    if not equals or Path(entry).exists() or name.startswith(("/", ".", "~")):
        name, path = "", entry
    base: str | None = None
    if not Path(path).exists():
        before, at, behind = path.rpartition("@")
        if at and (behind in bases or Path(before).exists()):
            path, base = before, behind
    return name or Path(path).resolve().name, path, base
