"""Reads what a model folder says about itself, without torch: config, weight headers, lock file.

Whether the engine can run it is the loader's business.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

LockState = Literal["verified", "none", "damaged"]
LARGEST_HEADER_BYTES = 100 << 20  # the limit of the safetensors format itself


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One folder. `problems` names every file that is missing, unreadable or not as locked."""

    name: str
    path: str
    architecture: str
    num_parameters: int
    dtypes: tuple[str, ...]
    num_bytes: int
    max_model_len: int | None
    lock: LockState
    problems: tuple[str, ...]


def find_folders(root: Path) -> list[Path]:
    """`root` itself if it is a model folder, else those directly inside it."""
    if (root / "config.json").is_file():
        return [root]
    return sorted(path.parent for path in root.glob("*/config.json"))


def read_folder(folder: Path) -> ModelFolder:
    """Never raises for a damaged folder: that is what `problems` is for."""
    problems: list[str] = []
    config = _read_json(folder / "config.json", problems)
    lock, lock_problems = check_lock(folder)
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        problems.append("no .safetensors file")
    num_parameters, dtypes = 0, set[str]()
    for shard in shards:
        try:
            tensors = tensor_headers(shard)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            problems.append(f"{shard.name}: {error}")
            continue
        num_parameters += sum(math.prod(tensor["shape"]) for tensor in tensors)
        dtypes |= {str(tensor["dtype"]) for tensor in tensors}
    if not (folder / "tokenizer.json").is_file():
        problems.append("no tokenizer.json")
    return ModelFolder(
        name=folder.resolve().name,
        path=str(folder),
        architecture=str((config.get("architectures") or ["?"])[0]),
        num_parameters=num_parameters,
        dtypes=tuple(sorted(dtypes)),
        num_bytes=sum(shard.stat().st_size for shard in shards),
        max_model_len=config.get("max_position_embeddings") or config.get("n_positions"),
        lock=lock,
        problems=(*problems, *lock_problems),
    )


def tensor_headers(shard: Path) -> list[dict[str, Any]]:
    """dtype and shape of every tensor: eight bytes of length, then JSON (safetensors format).
    Raises OSError or ValueError."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LARGEST_HEADER_BYTES:
            raise ValueError("not a safetensors file")
        header = json.loads(file.read(length))
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    if shard.stat().st_size != expected:
        raise ValueError(f"{shard.stat().st_size} bytes long, expected {expected}")
    return tensors


def check_lock(folder: Path) -> tuple[LockState, list[str]]:
    """Compare every file named in lock.json with its SHA-256."""
    file = folder / "lock.json"
    if not file.is_file():
        return "none", []
    problems: list[str] = []
    files = _read_json(file, problems).get("files")
    if not isinstance(files, dict):
        return "damaged", problems or ["lock.json has no files"]
    for name, expected in files.items():
        if "/" in name or "\\" in name:
            problems.append(f"lock.json: {name} is not a file of this folder")
        elif not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif _sha256(folder / name) != expected.get("sha256"):
            problems.append(f"{name} is not the locked file")
    return ("damaged" if problems else "verified"), problems


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_json(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{file.name}: {error}")
        return {}
    if isinstance(value, dict):
        return value
    problems.append(f"{file.name} holds no JSON object")
    return {}
