"""Checkpoints of a run, as safetensors files: written whole or not at all, read without pickle.

Format: 8 bytes length of the header (little endian), a JSON header with type, shape and place of
each tensor, the tensors' bytes (https://github.com/huggingface/safetensors#format). Tensors are
written one by one from where they lie, so that saving takes no memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shoal.train.config import RecipeError


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write float32 tensors and JSON values. Raises OSError; then the file before is still there."""
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_suffix(".tmp")
    try:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                flat = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1)
                file.write(memoryview(flat.numpy()).cast("B"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
