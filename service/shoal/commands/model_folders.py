"""Inspects model folders and lists every reason why the server could not serve one.

The reasons are the error messages of the code with which `shoal serve` loads a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from shoal.errors import ShoalError

if TYPE_CHECKING:
    from shoal.protocol.messages import AdapterSource, EngineConfig, ModelSource

LockState = Literal["verified", "none", "damaged"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model folder. `problems`: why it cannot be served; `remarks`: what is then ignored."""

    name: str
    path: str
    architecture: str = "?"
    num_parameters: int = 0
    dtypes: tuple[str, ...] = ()
    num_bytes: int = 0
    max_model_len: int | None = None
    lock: LockState = "none"
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def find_folders(root: Path) -> list[Path]:
    """`root` itself if it is a model folder, else the models directly inside it."""
    from shoal.checkpoint.find import is_one_model
    from shoal.checkpoint.open import looks_like_model

    if is_one_model(root):
        return [root]
    return sorted(path for path in root.iterdir() if looks_like_model(path))


def read_folder(source: ModelSource, config: EngineConfig | None = None) -> ModelFolder:
    """Reads a folder; errors are collected in `problems` instead of raised. `config`: the
    configuration the engine would have."""
    from shoal.checkpoint.open import open_model
    from shoal.protocol.messages import EngineConfig
    from shoal.runner.describe import describe_network
    from shoal.runner.load import check_model
    from shoal.text.text_model import read_text_model

    problems: list[str] = []

    def attempt(read: Callable[[], Result]) -> Result | None:
        try:
            return read()
        except ShoalError as error:
            problems.append(error.message)
            return None

    files = attempt(lambda: open_model(Path(source.path)))
    if files is None:
        return ModelFolder(source.name, source.path, problems=tuple(problems))
    text = attempt(lambda: read_text_model(files, source.name))
    engine = config or EngineConfig(models=(source,))
    network = attempt(lambda: describe_network(files, engine))
    is_about_answers = network is None or network.generates
    answers = text.remarks if text is not None and is_about_answers else ()
    remarks = attempt(lambda: check_model(files, engine))
    settings = attempt(lambda: files.config) or {}
    names = settings.get("architectures")
    tensors = attempt(lambda: files.tensors(lambda progress: None)) or {}
    is_locked = attempt(lambda: files.is_locked)
    return ModelFolder(
        name=source.name,
        path=source.path,
        architecture=", ".join(map(str, names)) if isinstance(names, list) and names else "?",
        num_parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors.values()})),
        num_bytes=attempt(lambda: files.weight_bytes) or 0,
        max_model_len=settings.get("max_position_embeddings") or settings.get("n_positions"),
        lock="damaged" if is_locked is None else "verified" if is_locked else "none",
        problems=tuple(dict.fromkeys(problems)),
        remarks=(*answers, *(remarks or ())),
    )


def adapter_problem(
    adapter: AdapterSource, models: Sequence[ModelSource], config: EngineConfig
) -> str | None:
    """Why the engine could not load an adapter of one of these models; None if it can, or if it is
    the model that cannot be read."""
    from shoal.checkpoint.open import open_model
    from shoal.runner.load import check_adapter

    (base,) = [model for model in models if model.name == adapter.model]
    try:
        files = open_model(Path(base.path))
    except ShoalError:
        return None
    try:
        check_adapter(files, config, Path(adapter.path))
    except ShoalError as error:
        return error.message
    return None
