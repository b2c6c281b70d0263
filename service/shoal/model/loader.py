"""A model's files to its network's description and weights, before anything computes it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from shoal.checkpoint.files import EmbeddingFiles, ModelFiles
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.model.architectures.base import Architecture
from shoal.model.registry import ModelDescription, read_model
from shoal.model.spec import DecoderSpec, EmbeddingSpec
from shoal.model.weights import Weights, load_weights, unused_tensors


class Checkpoint(NamedTuple):
    """What a model on disk is."""

    files: ModelFiles
    architecture: Architecture
    spec: DecoderSpec
    weights: Weights
    """Views into the files."""
    unused_keys: list[str]
    """Of the config."""
    unused_tensors: list[str]
    """Of the file: weights that the family knows and has no use for."""


def load_checkpoint(path: Path, on_progress: Callable[[float], None]) -> Checkpoint:
    """The model at a path, a folder or a GGUF file. `on_progress` is told which part of reading is
    done, up to 1. Raises ModelFolderError that names file, key and value."""
    return read_checkpoint(open_model(path), on_progress)


def read_checkpoint(
    files: ModelFiles, on_progress: Callable[[float], None], max_model_len: int | None = None
) -> Checkpoint:
    """The same of a model that is open already. `max_model_len`: longest sequence that will be
    served, None for the model's own."""
    architecture, spec, unused_keys = read_description(files, max_model_len)
    tensors = files.tensors(on_progress)
    weights = load_weights(spec, architecture, tensors, files.name)
    unused = unused_tensors(architecture, tensors)
    return Checkpoint(files, architecture, spec, weights, unused_keys, unused)


def read_description(files: ModelFiles, max_model_len: int | None = None) -> ModelDescription:
    """What a model's files describe: its network, and how it makes a vector of a sequence. A
    network without a head that says nothing of the latter gives the mean, as it is. Raises
    ModelFolderError."""
    found = read_model(files.config, files.config_file, max_model_len)
    return found._replace(spec=_with_embedding(found.spec, files.embedding))


def _with_embedding(spec: DecoderSpec, files: EmbeddingFiles | None) -> DecoderSpec:
    if files is None:
        return spec if spec.has_head else replace(spec, embedding=EmbeddingSpec("mean"))
    if files.size not in (None, spec.hidden_size):
        raise ModelFolderError(
            f"{files.where} pools vectors of {files.size} numbers, the network's have "
            f"{spec.hidden_size}: the files are of different models"
        )
    return replace(spec, embedding=EmbeddingSpec(files.pooling, files.normalized))
