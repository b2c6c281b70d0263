"""Metadata of a GGUF file's architecture, key by key; what nobody reads is accounted for."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.fields import Fields
from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.gguf_header import GgufHeader
from shoal.errors import ModelFolderError

_CHANGES_RESULTS = re.compile(
    r"""attention\..* | rope\..* | .*expert.* | .*moe.* | .*scale.* | .*softcapping | .*norm.*
    | .*parallel.* | .*layers? | .*sparsity.* | swiglu.* | altup\..* | ssm\..* | wkv\..* | kda\..*
    | shortconv\..* | .*interval | token_shift.* | embedding_length_.* | pooling_type
    | classifier\..* | decoder_.* | leading_dense_block_count | tensor_data_layout""",
    re.VERBOSE,
)
"""Keys that change the numbers of some network: refused where its family does not read them."""
_NEUTRAL: Mapping[str, Collection[Any]] = {
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.output_scale": (0, 1),
    "expert_gating_func": (0, 1),  # none said, softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "embedding_scale": (0, 1),
    "interleave_moe_layer_step": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.finetuned": (False, True),  # says how it was trained
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (1,),
    "rope.scaling.yarn_log_multiplier": (0,),
    "tensor_data_layout": ("Meta AI original pth", "jploski"),  # how each family is written anyway
    "use_parallel_residual": (),
}
"""Values that ask for nothing; of the other keys it is 0 and false."""


class GgufKeys:
    """`<architecture>.*` of the metadata, by names without that prefix, and the names of tensors.
    Every method raises ModelFolderError with file, key and value."""

    def __init__(self, header: GgufHeader, architecture: str) -> None:
        self._prefix = f"{architecture}."
        own = {k: v for k, v in header.metadata.items() if k.startswith(self._prefix)}
        self._fields = Fields(own, header.file)
        self._tensors = header.tensors
        self._file = header.file

    # --- metadata -------------------------------------------------------------------------------

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 on; of a list with an entry per layer, the one they all have."""
        values = self._fields.get(self._prefix + key)
        if isinstance(values, np.ndarray) and values.dtype.kind in "ui":
            if len(different := np.unique(values)) != 1 or different[0] < 1:
                self.refuse(key, "be the same for every layer")
            return int(different[0])
        return self._fields.size(self._prefix + key, default)

    def sizes(self, key: str, count: int, default: int | None = None) -> list[int]:
        """A whole number from 0 on per layer; one for all of them stands for a list."""
        values = self._fields.get(self._prefix + key)
        if isinstance(values, np.ndarray) and values.dtype.kind in "ui" and len(values) == count:
            return [int(value) for value in values]
        return [self._fields.size(self._prefix + key, default)] * count

    def count(self, key: str, default: int | None = None) -> int:
        return self._fields.count(self._prefix + key, default)

    def number(self, key: str, default: float | None = None) -> float:
        """Positive and finite."""
        return self._fields.number(self._prefix + key, default)

    def optional_number(self, key: str) -> float | None:
        """None where it is absent or 0, which says nothing."""
        value = self._fields.get(self._prefix + key)
        return None if isinstance(value, int | float) and value == 0 else self._number_or_none(key)

    def _number_or_none(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def flag(self, key: str, default: bool) -> bool:
        return self._fields.flag(self._prefix + key, default)

    def flags(self, key: str, count: int) -> list[bool] | None:
        """One per layer; None where the key is absent."""
        values = self._fields.get(self._prefix + key)
        if values is None:
            return None
        if not isinstance(values, np.ndarray) or values.dtype != np.bool_ or len(values) != count:
            self.refuse(key, f"be a list of {count} truth values")
        return [bool(value) for value in values]

    def word(self, key: str, default: str, known: Collection[str]) -> str:
        return self._fields.word(self._prefix + key, default, known)

    def has(self, key: str) -> bool:
        return self._fields.has(self._prefix + key)

    def require(self, holds: bool, key: str, rule: str) -> None:
        self._fields.require(holds, self._prefix + key, rule)

    def refuse(self, key: str, rule: str) -> NoReturn:
        self._fields.refuse(self._prefix + key, rule)

    def unused(self) -> dict[str, Any]:
        """What nobody has read and is unknown. Raises for what would change the results."""
        found = {}
        for full_key, value in self._fields.unread().items():
            key = full_key.removeprefix(self._prefix)
            if _CHANGES_RESULTS.fullmatch(key) is None:
                found[full_key] = value
            elif not _is_neutral(key, value):
                self.refuse(key, "be left out: Shoal does not know it of this architecture")
        return found

    # --- tensors --------------------------------------------------------------------------------

    @property
    def num_tensors(self) -> int:
        return len(self._tensors)

    def has_tensor(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise ModelFolderError(f"{self._file}: tensor {name!r} is missing")
        return self._tensors[name]

    def factors(self, name: str) -> list[float] | None:
        """The numbers of a small float32 tensor, as short decimals; None where it is absent."""
        if not self.has_tensor(name):
            return None
        tensor = self.tensor(name)
        if tensor.dtype != "F32" or tensor.array.ndim != 1:
            raise ModelFolderError(f"{self._file}: tensor {name!r} must be a list of F32")
        values: NDArray[np.float32] = tensor.array
        return [float(str(value)) for value in values]


def _is_neutral(key: str, value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.any()
    return value in _NEUTRAL.get(key, (0, False, ""))
