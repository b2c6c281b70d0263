"""Weights by role back to the tensors of a file: the inverse of `weights.py`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.model.spec import DecoderSpec, Role
from shoal.model.weights import ExpectedTensor, num_groups

Array = NDArray[Any]


def stored_tensors(
    spec: DecoderSpec,
    expected: Mapping[str, ExpectedTensor],
    weights: Iterable[tuple[Role, Array]],
    unused_rows: Mapping[str, Array],
) -> Iterator[tuple[str, Array]]:
    """(name, tensor) of each of `expected`, as soon as all weights that lie in it were given.
    `weights`: of any dtype, matrices [out, in]. `unused_rows`: by name, of a tensor whose first
    rows are no weight. Raises ValueError for a role that the network lacks, is given twice or is
    missing."""
    names: dict[Role, list[str]] = {}
    for name, (_, source, layer) in expected.items():
        for role_name in source.roles:
            names.setdefault(Role(role_name, layer), []).append(name)
    waiting: dict[str, dict[Role, Array]] = {}
    for role, weight in weights:
        if role not in names:
            raise ValueError(f"{role} is no weight of this network, or is given twice")
        holders = names.pop(role)
        shape, source, layer = expected[holders[0]]
        if source.per_head:
            yield from zip(holders, weight.reshape(len(holders), *shape), strict=True)
            continue
        [name] = holders
        parts = waiting.setdefault(name, {})
        parts[role] = weight
        if len(parts) == len(source.roles):
            roles = [Role(role_name, layer) for role_name in source.roles]
            of_all = joined([parts[each] for each in roles], num_groups(source, layer, spec))
            if source.first_row:
                of_all = np.concatenate((unused_rows[name], of_all))
            yield name, (of_all.T if source.transposed else of_all.reshape(shape))
            del waiting[name]
    if names:
        raise ValueError(f"weights are missing: {', '.join(map(str, names))}")


def joined(parts: Sequence[Array], groups: int) -> Array:
    """Rows of each part, cut into so many groups: all parts of a group, then of the next one."""
    if len(parts) == 1:
        return parts[0]
    row = parts[0].shape[1:]
    return np.concatenate([part.reshape(groups, -1, *row) for part in parts], 1).reshape(-1, *row)
