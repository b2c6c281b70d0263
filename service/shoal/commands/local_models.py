"""The models of the folders where `shoal serve` looks, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def local_names(models_dir: Path | None) -> list[str]:
    """Names of the models in the folders, in order; empty where there is no folder."""
    from shoal.checkpoint.catalogue import models_folders
    from shoal.checkpoint.find import local_models, name_of
    from shoal.errors import ConfigError

    try:
        folders = models_folders(models_dir)
    except ConfigError:
        return []
    return sorted(map(name_of, local_models(folders)))


def why_unknown(model: str, models_dir: Path | None) -> str | None:
    """A sentence that says what there is, if `model` is neither a path nor a model of the folders;
    what is there may still be damaged. The name of a model that can be fetched says so."""
    from shoal.checkpoint.catalogue import beside_code, models_folders, read_catalogue
    from shoal.checkpoint.find import parse_model
    from shoal.errors import ConfigError

    try:
        if os.path.exists(parse_model(model, models_dir).path):
            return None
        names = local_names(models_dir)
        folders = models_folders(models_dir)
        absent = [name for name in read_catalogue(*folders, beside_code()) if name not in names]
    except ConfigError as error:
        return error.message
    near = difflib.get_close_matches(model, [*names, *absent], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    where = " and ".join(map(str, folders))
    there = f"there is {', '.join(names)} in {where}" if names else f"there is none in {where}"
    fetched = f"`shoal pull {absent[0]}` fetches one" if absent else "`shoal pull` lists others"
    return f"no model {model}: {there}; {fetched}, and a path names any other.{hint}"
