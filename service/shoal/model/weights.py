"""Tensors of a file to the weights of a spec, by role: views, nothing is copied but the rows of
queries, keys and values that alternate by head.

What is missing, unknown, of another shape or not finite is refused by the name in the file.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.blocks import has_finite_scales
from shoal.checkpoint.files import BLOCKS, StoredTensor
from shoal.checkpoint.mapped import drop_pages
from shoal.errors import ModelFolderError
from shoal.model.architectures.base import Architecture, TensorSource, TensorTable
from shoal.model.spec import DecoderSpec, Role, expected_weights

Weights = Mapping[Role, StoredTensor]

MAX_NAMED = 10
_BUFFERS = (
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".rotary_emb.inv_freq",
    "embeddings.position_ids",
    "embeddings.token_type_ids",
)
"""Constants that older files store beside the weights: masks, frequencies, counted positions."""
_FORMATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NUMBERS_AT_ONCE = 1 << 20


class ExpectedTensor(NamedTuple):
    """A tensor that the file must have."""

    shape: tuple[int, ...]
    """As it is stored."""
    source: TensorSource
    layer: int | None


def expected_tensors(
    architecture: Architecture, spec: DecoderSpec, names: Collection[str] = ()
) -> dict[str, ExpectedTensor]:
    """Name in the file -> what it must be. `names`: those of the file, which tell the other layout
    where the family has one."""
    shapes = expected_weights(spec)
    found: dict[str, ExpectedTensor] = {}
    for name, layer, source in _sources(_layout(architecture, spec, names), spec):
        parts = [shapes.pop(Role(role, layer), None) for role in source.roles]
        known = [part for part in parts if part is not None]
        if known:
            if len(known) < len(parts):
                raise ModelFolderError(f"{name}: the model has only some of {source.roles}")
            rows = source.first_row + sum(part[0] for part in known)
            if source.per_head:
                found |= _of_each_head(name, layer, source, rows, spec)
                continue
            shape = (rows, *known[0][1:])
            if source.depthwise:
                shape = (shape[0], 1, *shape[1:])
            if source.stacked:
                num_experts = len(_experts(spec, layer))
                shape = (num_experts, rows // num_experts, *shape[1:])
            found[name] = ExpectedTensor(shape[:: -1 if source.transposed else 1], source, layer)
    if shapes:
        raise ModelFolderError(f"no tensor is named for {', '.join(map(str, shapes))}")
    return found


def load_weights(
    spec: DecoderSpec, architecture: Architecture, tensors: Mapping[str, StoredTensor], name: str
) -> dict[Role, StoredTensor]:
    """Every role of the spec; matrices are [out, in]. `name`: of the model, for errors. Raises
    ModelFolderError."""
    tensors, expected = named_tensors(spec, architecture, tensors, name)
    _check(tensors, expected, name)
    shapes = expected_weights(spec)
    weights: dict[Role, StoredTensor] = {}
    for key, (_, source, layer) in expected.items():
        tensor = tensors[key]
        if source.per_head:
            _add_heads(weights, Role(source.roles[0], layer), tensor, key)
            continue
        array = tensor.array.T if source.transposed else tensor.array[source.first_row :]
        if source.depthwise:
            array = array[:, 0]
        if source.stacked:
            array = array.reshape(-1, array.shape[-1])
        roles = [Role(role, layer) for role in source.roles]
        sizes = [shapes[role][0] for role in roles]
        parts = _cut(array, sizes, num_groups(source, layer, spec))
        for role, part in zip(roles, parts, strict=True):
            weights[role] = StoredTensor(tensor.dtype, part, tensor.file)
    return weights


def named_tensors(
    spec: DecoderSpec, architecture: Architecture, tensors: Mapping[str, StoredTensor], name: str
) -> tuple[dict[str, StoredTensor], dict[str, ExpectedTensor]]:
    """The tensors of a file under the names that the family's table has (older names, a prefix that
    is left out), without buffers, a tied head and what the family does not use; and what must be
    there, in the file's layout. Raises ModelFolderError for a head that is tied in the config and
    another in the file."""
    expected = expected_tensors(architecture, spec)
    tensors = _with_prefix(_renamed(tensors, architecture), architecture, expected)
    expected = expected_tensors(architecture, spec, tensors.keys())
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if key in expected or not (key.endswith(_BUFFERS) or _is_unused(key, architecture))
    }
    return _without_tied_head(kept, architecture, spec, name), expected


def unused_tensors(architecture: Architecture, names: Iterable[str]) -> list[str]:
    """Those of the file's tensors that no weight is read from, though they are weights."""
    return [name for name in names if _is_unused(name, architecture)]


def num_groups(source: TensorSource, layer: int | None, spec: DecoderSpec) -> int:
    """Groups of output channels, each with its share of every role of the tensor."""
    if not source.by_kv_head or layer is None:
        return 1
    return spec.layers[layer].attention.num_kv_heads


def num_parameters(weights: Weights) -> int:
    """Numbers in all weights; a tied head is the embedding and not counted twice."""
    return sum(math.prod(weight.shape) for weight in weights.values())


def stored_format(weights: Weights) -> str:
    """Of the embedding, as stored: float32, float16 or bfloat16. Quantized blocks count as float32,
    which holds their numbers exactly."""
    return _FORMATS.get(weights[Role("embedding")].dtype, "float32")


def _is_unused(name: str, architecture: Architecture) -> bool:
    return name.removeprefix(architecture.prefix).startswith(architecture.unused)


def _cut(array: NDArray[Any], sizes: list[int], count: int) -> list[NDArray[Any]]:
    """The rows of each role, so many of them. The rows are cut into `count` groups, and each
    group holds its share of every role, one after the other. Views where one group holds all."""
    if len(sizes) == 1:
        return [array]
    row = array.shape[1:]
    groups = array.reshape(count, -1, *row) if count > 1 else array[None]
    parts, start = [], 0
    for size in sizes:
        end = start + size // count
        parts.append(groups[:, start:end].reshape(size, *row))
        parts[-1].flags.writeable = False
        start = end
    return parts


def _layout(architecture: Architecture, spec: DecoderSpec, names: Collection[str]) -> TensorTable:
    """The family's table, with the other names of the same weights where the file has any."""
    table, others = architecture.table(spec), architecture.other_layout
    if not any(name in names for name, _, _ in _sources(others, spec)):
        return table
    replaced = {role for source in others.values() for role in source.roles}
    kept = {name: each for name, each in table.items() if replaced.isdisjoint(each.roles)}
    return {**kept, **others}


def _sources(
    table: TensorTable, spec: DecoderSpec
) -> Iterator[tuple[str, int | None, TensorSource]]:
    """(name, layer, source) of a table, its templates filled in."""
    for template, source in table.items():
        if "{layer}" not in template:
            yield template, None, source
            continue
        for layer in range(spec.num_layers):
            name = template.replace("{layer}", str(layer))
            if "{expert}" not in source.roles[0]:
                yield name, layer, source
            elif source.stacked:
                yield name, layer, _of_experts(source, _experts(spec, layer))
            else:
                for expert in _experts(spec, layer):
                    filled = _of_experts(source, [expert])
                    yield name.replace("{expert}", str(expert)), layer, filled


def _experts(spec: DecoderSpec, layer: int | None) -> range:
    """Empty in a layer without experts."""
    assert layer is not None
    experts = spec.layers[layer].mlp.experts
    return range(experts.num_experts if experts is not None else 0)


def _of_experts(source: TensorSource, experts: Iterable[int]) -> TensorSource:
    """The same with the roles of these experts, one after the other."""
    roles = [role.replace("{expert}", str(index)) for index in experts for role in source.roles]
    return replace(source, roles=tuple(roles))


def _of_each_head(
    name: str, layer: int | None, source: TensorSource, size: int, spec: DecoderSpec
) -> dict[str, ExpectedTensor]:
    """What must be stored for a weight [size] of all heads of a layer."""
    assert layer is not None
    head_dim = spec.layers[layer].attention.head_dim
    heads = range(size // head_dim)
    if "{head}" not in name:
        return {name: ExpectedTensor((len(heads), head_dim), source, layer)}
    names = [name.replace("{head}", str(head)) for head in heads]
    return dict.fromkeys(names, ExpectedTensor((head_dim,), source, layer))


def _add_heads(
    weights: dict[Role, StoredTensor], role: Role, tensor: StoredTensor, key: str
) -> None:
    """Puts the next heads behind those that are there."""
    array = tensor.array.reshape(-1)
    before = weights.get(role)
    if before is not None:
        if before.dtype != tensor.dtype:
            raise ModelFolderError(
                f"{tensor.file}: {key} is stored as {tensor.dtype}, other heads as {before.dtype}: "
                "store all heads alike"
            )
        array = np.concatenate((before.array, array))
    weights[role] = StoredTensor(tensor.dtype, array, tensor.file)


def _renamed(
    tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> Mapping[str, StoredTensor]:
    """Names of older files as they are now."""
    names = {older: name for older, name in architecture.older_names.items() if name not in tensors}
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _with_prefix(
    tensors: Mapping[str, StoredTensor],
    architecture: Architecture,
    expected: Mapping[str, ExpectedTensor],
) -> Mapping[str, StoredTensor]:
    """Names as the whole network has them, for a file of the network without its head."""
    prefix = architecture.prefix
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {
        name if name in expected or name.startswith("lm_head.") else prefix + name: tensor
        for name, tensor in tensors.items()
    }


def _without_tied_head(
    tensors: dict[str, StoredTensor], architecture: Architecture, spec: DecoderSpec, name: str
) -> dict[str, StoredTensor]:
    """A tied head may be stored too, where it is the embedding; one that is not tied must be."""
    if not spec.has_head:
        return tensors
    names = {source.roles[0]: key for key, source in architecture.table(spec).items()}
    embedding, head = names["embedding"], names["head.weight"]
    if not spec.tied_head:
        if head not in tensors and embedding in tensors:
            raise ModelFolderError(
                f"{name}: tie_word_embeddings is false in the config, and the weights have no "
                f"{head}: set it to true if the embedding is the head"
            )
        return tensors
    if head in tensors and embedding in tensors and not _are_equal(tensors, head, embedding):
        raise ModelFolderError(
            f"{name}: tie_word_embeddings is true in the config, and {head} differs from the "
            "embedding: set it to false if the head is a matrix of its own"
        )
    return {key: tensor for key, tensor in tensors.items() if key != head}


def _are_equal(tensors: Mapping[str, StoredTensor], one: str, other: str) -> bool:
    return tensors[one].dtype == tensors[other].dtype and np.array_equal(
        tensors[one].array, tensors[other].array
    )


def _check(
    tensors: Mapping[str, StoredTensor], expected: Mapping[str, ExpectedTensor], name: str
) -> None:
    _refuse_any(name, "tensors are missing", [key for key in expected if key not in tensors])
    _refuse_any(name, "tensors are unknown", [key for key in tensors if key not in expected])
    _refuse_any(
        name,
        "tensors have another shape than the config says",
        [
            f"{key} {list(tensor.shape)} instead of {list(expected[key].shape)}"
            for key, tensor in tensors.items()
            if tensor.shape != expected[key].shape
        ],
    )
    _refuse_any(
        name,
        f"tensors are stored in a format that is none of {', '.join((*_FORMATS, *BLOCKS))}",
        [
            f"{key} ({one.dtype})"
            for key, one in tensors.items()
            if one.dtype not in _FORMATS and one.dtype not in BLOCKS
        ],
    )
    _refuse_any(
        name,
        "tensors are quantized along their outputs",
        [
            key
            for key, tensor in tensors.items()
            if tensor.dtype in BLOCKS and expected[key].source.transposed
        ],
    )
    _refuse_any(
        name,
        "tensors hold NaN or infinity",
        [key for key, tensor in tensors.items() if not _is_finite(tensor)],
    )


def _is_finite(tensor: StoredTensor) -> bool:
    if tensor.dtype in BLOCKS:
        return has_finite_scales(tensor)
    flat: NDArray[Any] = tensor.array.reshape(-1)
    for start in range(0, flat.size, _NUMBERS_AT_ONCE):
        piece = flat[start : start + _NUMBERS_AT_ONCE]
        if tensor.dtype == "BF16":  # all exponent bits set = not a number
            is_finite = not ((piece & 0x7F80) == 0x7F80).any()
        else:
            is_finite = bool(np.isfinite(piece).all())
        drop_pages(piece)
        if not is_finite:
            return False
    return True


def _refuse_any(name: str, what: str, tensors: list[str]) -> None:
    if tensors:
        left = len(tensors) - MAX_NAMED
        more = f" and {left} more" if left > 0 else ""
        raise ModelFolderError(f"{name}: {what}: {', '.join(tensors[:MAX_NAMED])}{more}")
