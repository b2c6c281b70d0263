"""A path to the reader of what lies there, or to the sentence that says what to do instead."""

import re
from pathlib import Path

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.hf import CONFIG, TOKENIZER, WEIGHTS, WEIGHTS_INDEX, HuggingFaceFolder
from shoal.errors import ModelFolderError

ADAPTER_CONFIG = "adapter_config.json"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name, as Hugging Face spells repositories."""
_GGUF_MAGIC = b"GGUF"


def open_model(path: Path) -> ModelFiles:
    """The model at a path; its files are read later. Raises ModelFolderError for what is no
    model that Shoal can read."""
    try:
        problem = _problem(path)
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror}") from error
    if problem is not None:
        raise ModelFolderError(problem)
    return HuggingFaceFolder(path)


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
    return f"{path} does not exist: give a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}"


def _about_file(path: Path) -> str:
    with path.open("rb") as file:
        is_gguf = file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    if is_gguf or path.suffix == ".gguf":
        return (
            f"{path.name} is a GGUF file, which this version of Shoal cannot read: use the model's "
            f"Hugging Face folder, with {CONFIG}, {TOKENIZER} and {WEIGHTS}"
        )
    return f"{path.name} is a file: give the folder it lies in, with {CONFIG} and {TOKENIZER}"


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
    if files := sorted(path.glob("*.gguf")):
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
