"""An adapter's matrices by the roles of the network they change, as a family's table names them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.adapter import ALL_LINEAR, AdapterFolder, LowRank
from shoal.checkpoint.files import StoredTensor
from shoal.errors import ModelFolderError
from shoal.model.architectures.base import Architecture, TensorSource
from shoal.model.spec import DecoderSpec, Role, expected_weights
from shoal.model.weights import expected_tensors, num_groups

Float32 = NDArray[np.float32]
ADAPTED_ROLES = frozenset({"q", "k", "v", "output", "gate", "up", "down"})
"""Matrices of a layer that an adapter may change."""
_MAX_NAMED = 5


class AdapterMatrix(NamedTuple):
    """One low-rank product, and the matrices whose outputs it grows: y += b (a x)."""

    layer: int
    roles: tuple[str, ...]
    """ "q" for `q.weight`; several where the base's tensor is fused."""
    a: Float32
    """[rank, in]"""
    b: tuple[Float32, ...]
    """[out, rank] for each role, the scale included."""


def load_adapter(
    folder: AdapterFolder, architecture: Architecture, spec: DecoderSpec
) -> list[AdapterMatrix]:
    """All products of an adapter of this base. Raises ModelFolderError for one that does not fit:
    other shapes, modules the base lacks or Shoal cannot adapt, tensors that are missing."""
    config, found = folder.config(), folder.modules()
    targets: dict[str, tuple[TensorSource, int]] = {}
    others: list[str] = []
    for module, source, layer in linear_modules(architecture, spec):
        is_inside = layer is not None
        if config.target_modules == ALL_LINEAR and not is_inside:
            continue  # as peft: all of them but the head
        if config.targets(module) or config.targets(module.removeprefix(architecture.prefix)):
            roles = {role.removesuffix(".weight") for role in source.roles}
            if layer is None or not roles <= ADAPTED_ROLES:
                others.append(module)
            else:
                targets[module] = source, layer
    where, prefix = folder.where, architecture.prefix
    _refuse(where, "Shoal adapts linear layers of attention and of plain MLPs only, not", others)
    named = {
        name if name in targets or prefix + name not in targets else prefix + name: low_rank
        for name, low_rank in found.items()
    }
    what = "modules that the base lacks or target_modules does not name:"
    _refuse(where, what, [name for name in named if name not in targets])
    _refuse(where, "no matrices of", [name for name in targets if name not in named])
    sizes = expected_weights(spec)
    return [
        _matrix(folder, name, named[name], source, layer, spec, sizes)
        for name, (source, layer) in targets.items()
    ]


def linear_modules(
    architecture: Architecture, spec: DecoderSpec
) -> Iterator[tuple[str, TensorSource, int | None]]:
    """(name in the base, what it computes, layer) of every matrix, embedding and head included."""
    for name, (shape, source, layer) in expected_tensors(architecture, spec).items():
        if name.endswith(".weight") and len(shape) == 2 and not source.per_head:
            yield name.removesuffix(".weight"), source, layer


def _matrix(
    folder: AdapterFolder,
    module: str,
    low_rank: LowRank,
    source: TensorSource,
    layer: int,
    spec: DecoderSpec,
    sizes: Mapping[Role, tuple[int, ...]],
) -> AdapterMatrix:
    shapes = [sizes[Role(role, layer)] for role in source.roles]
    outputs, inputs = [shape[0] for shape in shapes], shapes[0][1]
    a, b = _float32(low_rank.a), _float32(low_rank.b)
    if a.shape[1] != inputs or b.shape[0] != sum(outputs):
        raise ModelFolderError(
            f"{folder.where}: the adapter of {module} is for {a.shape[1]} inputs and {b.shape[0]} "
            f"outputs, the base has {inputs} and {sum(outputs)}: it belongs to another base"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ModelFolderError(f"{folder.where}: the matrices of {module} hold NaN or infinity")
    b = b * np.float32(low_rank.scale)
    roles = tuple(role.removesuffix(".weight") for role in source.roles)
    return AdapterMatrix(layer, roles, a, _split(b, outputs, num_groups(source, layer, spec)))


def _split(b: Float32, outputs: list[int], groups: int) -> tuple[Float32, ...]:
    """The rows of each role: those of one group of every role, then the next group's."""
    grouped = b.reshape(groups, -1, b.shape[1])
    ends = np.cumsum([size // groups for size in outputs])[:-1]
    parts = np.split(grouped, ends, axis=1)
    return tuple(np.ascontiguousarray(part.reshape(-1, b.shape[1])) for part in parts)


def _float32(tensor: StoredTensor) -> Float32:
    array: NDArray[Any] = np.ascontiguousarray(tensor.array)
    if tensor.dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if tensor.dtype not in ("F32", "F16"):
        raise ModelFolderError(f"{tensor.file}: {tensor.dtype} is none of F32, F16, BF16")
    return array.astype(np.float32)


def _refuse(where: str, what: str, modules: list[str]) -> None:
    if modules:
        left = len(modules) - _MAX_NAMED
        more = f" and {left} more" if left > 0 else ""
        raise ModelFolderError(f"{where}: {what} {', '.join(modules[:_MAX_NAMED])}{more}")
