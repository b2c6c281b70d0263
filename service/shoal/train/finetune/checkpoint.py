"""Checkpoints of a run, as safetensors files: written whole or not at all, read without pickle.

Tensors are written one by one from where they lie, so that saving takes no memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shoal.checkpoint.safetensors_write import Layout, header
from shoal.train.config import RecipeError
from shoal.train.finetune.folder import replace_file


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write float32 tensors and JSON values. Raises `RecipeError`; then the file before is still
    there."""
    layouts = {name: Layout("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}

    def write(file: BinaryIO) -> None:
        file.write(header(layouts, {"facts": json.dumps(facts)}))
        for tensor in tensors.values():
            flat = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1)
            file.write(memoryview(flat.numpy()).cast("B"))

    replace_file(path, write)


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON values of a checkpoint."""
    with _opened(path) as file:
        facts = json.loads(file.metadata()["facts"])
    assert isinstance(facts, dict)
    return facts


def load_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copy the stored values into tensors of the same names and shapes."""
    with _opened(path) as file, torch.no_grad():
        known = set(file.keys())
        if missing := [name for name in tensors if name not in known]:
            raise _unusable(path, f"it has no {missing[0]}")
        for name, tensor in tensors.items():
            tensor.copy_(file.get_tensor(name))


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), "pt")
    except (OSError, SafetensorError) as error:
        raise _unusable(path, str(error)) from error


def _unusable(path: Path, reason: str) -> RecipeError:
    return RecipeError(f"the checkpoint {path} cannot be used ({reason}): --overwrite begins anew")
