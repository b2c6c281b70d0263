"""lock.json: SHA-256 and size of every file a model is made of, compared before any is used."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from shoal.checkpoint.read import read_json, refuse_lfs_pointer, where
from shoal.errors import ModelFolderError

LOCK_FILE = "lock.json"
CARD = "MODEL.md"
"""About the model, for people: it may be changed by hand and is not locked."""
_READ_BYTES = 1 << 22


def verify_lock(folder: Path, used: Collection[Path]) -> dict[str, str]:
    """SHA-256 of the locked files by name, each compared with the file. Raises ModelFolderError
    for a difference, and for a file of `used` that is not locked."""
    locked = _read_lock(folder)
    for path in used:
        if path.relative_to(folder).as_posix() not in locked:
            raise ModelFolderError(
                f"{where(path)} is not in {LOCK_FILE}: remove the file or remake the lock"
            )
    for name, (digest, size) in locked.items():
        path = folder / name
        if not _is_inside(name) or not path.is_file():
            raise ModelFolderError(
                f"{folder.resolve().name}/{name} is in {LOCK_FILE} but not in the folder"
            )
        if path.stat().st_size != size or file_sha256(path) != digest:
            refuse_lfs_pointer(path)
            raise ModelFolderError(
                f"{where(path)} differs from {LOCK_FILE}: restore the file or remake the lock"
            )
    return {name: digest for name, (digest, _) in locked.items()}


def write_lock(folder: Path) -> None:
    """Locks every file of the folder and of those in it but the card and hidden files. Raises
    OSError."""
    files = {
        name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and (name := path.relative_to(folder).as_posix()) not in (LOCK_FILE, CARD)
        and not name.startswith(".")
    }
    text = json.dumps({"files": files}, indent=2, ensure_ascii=False)
    (folder / LOCK_FILE).write_text(text + "\n", encoding="utf-8")


def locked_names(folder: Path) -> frozenset[str] | None:
    """Files that the folder's lock names; None without a lock. Raises ModelFolderError for one
    that cannot be read."""
    return frozenset(_read_lock(folder)) if (folder / LOCK_FILE).is_file() else None


def file_sha256(path: Path) -> str:
    """Hex digits. Raises ModelFolderError for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ModelFolderError(f"{where(path)} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _read_lock(folder: Path) -> dict[str, tuple[str, int]]:
    """Name -> (SHA-256, bytes)."""
    path = folder / LOCK_FILE
    try:
        files = read_json(path)["files"]
        return {str(name): (str(e["sha256"]), int(e["bytes"])) for name, e in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(
            f'{where(path)} is not {{"files": {{name: {{"sha256": ..., "bytes": ...}}}}}}'
        ) from error


def _is_inside(name: str) -> bool:
    """A plain relative path below the folder."""
    path = PurePosixPath(name)
    return "\\" not in name and not path.is_absolute() and ".." not in path.parts
