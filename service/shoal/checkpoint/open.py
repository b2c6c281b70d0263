"""A path to the reader of what lies there, or to the sentence that says what to do instead."""

import re
from pathlib import Path

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.gguf import GgufFile
from shoal.checkpoint.gguf_header import MAGIC
from shoal.checkpoint.hf import CONFIG, TOKENIZER, WEIGHTS, WEIGHTS_INDEX, HuggingFaceFolder
from shoal.checkpoint.read import refuse_lfs_pointer
from shoal.errors import ModelFolderError

ADAPTER_CONFIG = "adapter_config.json"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name, as Hugging Face spells repositories."""


def open_model(path: Path) -> ModelFiles:
    """The model at a path; its files are read later. Raises ModelFolderError for what is no
    model that Shoal can read."""
    try:
        problem = _problem(path)
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror}") from error
    if problem is not None:
        raise ModelFolderError(problem)
    if path.is_file():
        return GgufFile(path)
    return HuggingFaceFolder(path) if (path / CONFIG).is_file() else GgufFile(_gguf_files(path)[0])


def looks_like_model(path: Path) -> bool:
    """Would somebody who put this beside other models expect it to be one? For folders that are
    searched; what `open_model` refuses may still look like a model."""
    try:
        return _has_models_files(path)
    except OSError:  # not ours to read: `open_model` says so
        return True


def _has_models_files(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".gguf"
    names = (CONFIG, ADAPTER_CONFIG, TOKENIZER, WEIGHTS, WEIGHTS_INDEX)
    patterns = ("pytorch_model*.bin", "*.gguf")
    return any((path / name).is_file() for name in names) or any(
        next(path.glob(pattern), None) for pattern in patterns
    )


def _problem(path: Path) -> str | None:
    if path.is_file():
        return _about_file(path)
    return _about_folder(path) if path.is_dir() else _about_nothing(path)


def _about_nothing(path: Path) -> str:
    if _REPOSITORY.fullmatch(str(path)) and path.suffix != ".gguf":
        local = path.name
        return (
            f"{path} is no folder here; if it is a Hugging Face repository, fetch it first, for "
            f"Shoal downloads nothing: `hf download {path} --local-dir {local}`, "
            f"then --model {local}"
        )
    return (
        f"{path} does not exist: give a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}, or a "
        ".gguf file"
    )


def _about_file(path: Path) -> str | None:
    with path.open("rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC
    if is_gguf:
        return None
    if path.suffix == ".gguf":
        refuse_lfs_pointer(path)
        return f"{path.name} does not begin as a GGUF file does: it is damaged; fetch it again"
    return (
        f"{path.name} is a file, and no GGUF file: give the folder it lies in, with {CONFIG} and "
        f"{TOKENIZER}"
    )


def _gguf_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.gguf"))


def _about_folder(path: Path) -> str | None:
    name = path.resolve().name
    has_config = (path / CONFIG).is_file()
    has_weights = (path / WEIGHTS).is_file() or (path / WEIGHTS_INDEX).is_file()
    if (path / ADAPTER_CONFIG).is_file() and not (has_config and has_weights):
        return (
            f"{name} is an adapter (it has {ADAPTER_CONFIG}), not a whole model: serve it beside "
            f"its base, --model BASE --adapter {name}"
        )
    if has_config:
        return None
    if len(files := _gguf_files(path)) > 1:
        names = ", ".join(file.name for file in files[:5])
        return f"{name} has several GGUF files: give one of them, not the folder: {names}"
    if files:
        return _about_file(files[0])
    if (path / "snapshots").is_dir():
        return (
            f"{name} is an entry of the Hugging Face cache: give the folder of one revision, "
            f"{name}/snapshots/<revision>"
        )
    if inner := sorted(path.glob(f"*/{CONFIG}")):
        return (
            f"{name} has no {CONFIG}, but {name}/{inner[0].parent.name} has one: give that folder, "
            "or all of them with --models-dir"
        )
    return f"{name} has no {CONFIG}: a model folder has {CONFIG}, {TOKENIZER} and {WEIGHTS}"
