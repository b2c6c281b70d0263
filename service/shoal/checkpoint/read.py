"""Reads one small text file of a model folder; what goes wrong is said with folder and file."""

import json
from pathlib import Path
from typing import Any

from shoal.errors import ModelFolderError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the file begins that git keeps in place of one stored by Git LFS."""


def where(path: Path) -> str:
    """ "folder/file", as errors name a file."""
    return f"{path.resolve().parent.name}/{path.name}"


def read_text(path: Path) -> str:
    """UTF-8. Raises ModelFolderError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelFolderError(f"{where(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{where(path)} is not UTF-8 text") from error
    if text.startswith(_LFS_POINTER.decode()):
        raise _is_pointer(path)
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelFolderError for anything but a readable JSON object."""
    text = read_text(path)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{where(path)} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ModelFolderError(f"{where(path)} is not a JSON object")
    return fields


def refuse_lfs_pointer(path: Path) -> None:
    """Raises ModelFolderError for a file that Git LFS has not fetched yet."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError as error:
        raise ModelFolderError(f"{where(path)} cannot be read: {error.strerror}") from error
    if is_pointer:
        raise _is_pointer(path)


def _is_pointer(path: Path) -> ModelFolderError:
    return ModelFolderError(
        f"{where(path)} is a Git LFS pointer and not the file itself: "
        "run `git lfs pull` in that folder"
    )
