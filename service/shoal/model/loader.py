"""A model's files to its network's description and weights, before anything computes it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.open import open_model
from shoal.model.architectures.base import Architecture
from shoal.model.registry import read_model
from shoal.model.spec import DecoderSpec
from shoal.model.weights import Weights, load_weights


class Checkpoint(NamedTuple):
    """What a model on disk is."""

    files: ModelFiles
    architecture: Architecture
    spec: DecoderSpec
    weights: Weights
    """Views into the files."""
    unused_keys: list[str]
    """Of the config."""


def load_checkpoint(path: Path, on_progress: Callable[[float], None]) -> Checkpoint:
    """The model at a path, a folder or a GGUF file. `on_progress` is told which part of reading is
    done, up to 1. Raises ModelFolderError that names file, key and value."""
    return read_checkpoint(open_model(path), on_progress)


def read_checkpoint(
    files: ModelFiles, on_progress: Callable[[float], None], max_model_len: int | None = None
) -> Checkpoint:
    """The same of a model that is open already. `max_model_len`: longest sequence that will be
    served, None for the model's own."""
    architecture, spec, unused_keys = read_model(files.config, files.config_file, max_model_len)
    tensors = files.tensors(on_progress)
    weights = load_weights(spec, architecture, tensors, files.name)
    return Checkpoint(files, architecture, spec, weights, unused_keys)
