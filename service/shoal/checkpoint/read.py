"""Reads one small text file of a model folder; what goes wrong is said with folder and file.

JSON is read within limits, for nobody has checked the file before us: its size, how deep it is
nested, each name once in an object, numbers that JSON has and a float can hold.
"""

import json
import math
from pathlib import Path
from typing import Any

from shoal.errors import ModelFolderError

MAX_JSON_BYTES = 32 << 20
"""Of a config, settings or an index. The index of 100,000 tensors has a third of it."""
MAX_TEXT_BYTES = 256 << 20
"""Of a tokenizer: those of the largest vocabularies take 40 MB."""
MAX_DEPTH = 32
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the file begins that git keeps in place of one stored by Git LFS."""


class _BadValueError(ValueError):
    """A field's value is no value; the message begins with the field."""


def where(path: Path) -> str:
    """ "folder/file", as errors name a file."""
    return f"{path.resolve().parent.name}/{path.name}"


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """UTF-8. Raises ModelFolderError."""
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelFolderError(f"{where(path)} cannot be read: {error.strerror}") from error
    if len(raw) > max_bytes:
        raise ModelFolderError(f"{where(path)} is larger than {max_bytes >> 20} MiB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{where(path)} is not UTF-8 text") from error
    if text.startswith(_LFS_POINTER.decode()):
        raise _is_pointer(path)
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelFolderError for anything but a readable JSON object."""
    return parse_json(read_text(path, MAX_JSON_BYTES), where(path))


def parse_json(text: str, name: str, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The object that the text is. `name`: of the file, for errors. Raises ModelFolderError."""
    try:
        fields = strict_json(text)
    except _BadValueError as error:
        raise ModelFolderError(f"{name}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{name} is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(fields, dict):
        raise ModelFolderError(f"{name} is not a JSON object")
    if _is_deeper(fields, max_depth):
        raise ModelFolderError(
            f"{name} is nested more than {max_depth} levels deep: it is damaged, or no file of a "
            "model; fetch it again"
        )
    return fields


def strict_json(text: str) -> Any:
    """Raises ValueError for what is not JSON or not clear: a name that stands twice in an object,
    and NaN, infinity or a number that no float holds as its value. RecursionError where it is
    nested too deep."""
    return json.loads(text, object_pairs_hook=_checked_object)


def refuse_lfs_pointer(path: Path) -> None:
    """Raises ModelFolderError for a file that Git LFS has not fetched yet."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError as error:
        raise ModelFolderError(f"{where(path)} cannot be read: {error.strerror}") from error
    if is_pointer:
        raise _is_pointer(path)


def _checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        raise _BadValueError(f"{twice[:100]} must stand once in an object")
    for name, value in pairs:
        if isinstance(value, float | list) and not _is_finite(value):
            raise _BadValueError(f"{name[:100]} must be a finite number, or a list of such")
    return fields


def _is_finite(value: Any) -> bool:
    """Are all floats of a list? The objects in it have been looked at."""
    if isinstance(value, list):
        return all(_is_finite(item) for item in value if isinstance(item, float | list))
    return math.isfinite(value)


def _is_deeper(value: Any, max_depth: int) -> bool:
    """Level by level, so that no depth costs more than a list."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            item
            for part in level
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _is_pointer(path: Path) -> ModelFolderError:
    return ModelFolderError(
        f"{where(path)} is a Git LFS pointer and not the file itself: "
        "run `git lfs pull` in that folder"
    )
