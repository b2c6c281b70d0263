"""What a recipe may add to the trainer by Python code of its own.

`recipe.toml` names a file beside it, `code = "recipe.py"`, which defines `HOOKS`, a `RecipeHooks`.
Loading a recipe **runs that file** with the rights of whoever started the training. It happens only
for a recipe the caller names, never for a model folder or a data file.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from tokenizers import Tokenizer

from shoal.train.config import RecipeError
from shoal.train.network import Llama
from shoal.train.pieces import Corpus, Reader

Initialize = Callable[[Llama, Corpus, Tokenizer], None]


@dataclass(frozen=True, slots=True)
class RecipeHooks:
    """What a recipe's code provides to a run."""

    readers: Mapping[str, Reader] = field(default_factory=dict)
    """Formats of sources besides "text": name -> reader."""
    initialize: Initialize | None = None
    """Changes the random weights of a new network, in place, before its first step."""


def load_hooks(code: Path | None) -> RecipeHooks:
    """Run a recipe's code and return its `HOOKS`; no hooks where `code` is None.

    The file may import others of its folder, and of the folder above it, by relative imports.
    Raises `RecipeError` for a file that is missing, lacks a package, or defines no `HOOKS`.
    """
    if code is None:
        return RecipeHooks()
    if not code.is_file():
        raise RecipeError(f"the recipe's code {code} does not exist")
    folder = code.resolve().parent
    # Named by the folder above, so that recipes of equal names elsewhere are other modules.
    above = _package(f"_recipes_{_digest(folder.parent)}", folder.parent)
    package = _package(f"{above}.{folder.name.replace('.', '_')}", folder)
    try:
        hooks = getattr(importlib.import_module(f"{package}.{code.stem}"), "HOOKS", None)
    except ModuleNotFoundError as error:
        raise RecipeError(f"{code} needs the package {error.name}: install it") from error
    if not isinstance(hooks, RecipeHooks):
        raise RecipeError(f"{code} defines no HOOKS = RecipeHooks(...)")
    return hooks


def _package(name: str, folder: Path) -> str:
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(name, package)
    return name


def _digest(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
