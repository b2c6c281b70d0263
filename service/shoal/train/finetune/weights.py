"""A base's weights as the decoder trains them: float32 leaves, or frozen matrices with low-rank
products beside them. Gradients of matrices are added to `.grad` of their leaves directly, so there
is never a second copy of one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.mapped import drop_pages
from shoal.model.spec import AttentionSpec, MlpSpec, NormSpec, Role, RotarySpec
from shoal.model.torch.layers import (
    ACTIVATIONS,
    NormPerHead,
    RotaryTables,
    TorchWeights,
    Transform,
    read_tensor,
)
from shoal.train.finetune.lora import LowRank
from shoal.train.finetune.products import Gated, Lookup, Product, TrainedNorm

OF_VOCABULARY = ("embedding", "head.weight")


class Part(NamedTuple):
    """Where a weight of the spec lies."""

    leaf: Tensor
    rows: slice


class TrainedWeights(TorchWeights):
    """Matrices are multiplied in `compute`; norms, their weights and the residual are in `wide`.

    With `low_ranks` nothing else is trained, and matrices are kept in `compute`. Without, every
    weight is a leaf in `wide`, and a matrix is converted where it is used.
    """

    def __init__(
        self,
        stored: Mapping[Role, StoredTensor],
        *,
        compute: torch.dtype,
        device: str,
        low_ranks: Mapping[tuple[int, str], LowRank] | None = None,
        scale: float = 1.0,
    ) -> None:
        """`low_ranks`: by layer and first role; `scale`: alpha / rank."""
        self.wide = torch.promote_types(compute, torch.float32)
        super().__init__(stored, self.wide, device)
        self.compute = compute
        self.leaves: dict[str, Tensor] = {}
        self.parts: dict[Role, Part] = {}
        """Of every weight that is trained itself."""
        self._low_ranks = low_ranks
        self._scale = scale

    @property
    def trains_all(self) -> bool:
        return self._low_ranks is None

    def tensor(self, name: str, layer: int | None = None) -> Tensor:
        role = Role(name, layer)
        if role in self.parts:
            return self.parts[role].leaf
        is_frozen_matrix = not self.trains_all and name in OF_VOCABULARY
        tensor = self._read(role, self.compute if is_frozen_matrix else self.wide)
        if self.trains_all:
            self.leaves[str(role)] = tensor.requires_grad_()
            self.parts[role] = Part(tensor, slice(None))
        return tensor

    def table(self, matrix: Tensor) -> Transform:
        return Lookup(matrix, self.wide)

    def linear(self, layer: int | None, *names: str) -> Transform:
        weight = self._joined(layer, [f"{name}.weight" for name in names])
        biases = [name for name in names if Role(f"{name}.bias", layer) in self._stored]
        bias = self._joined(layer, [f"{name}.bias" for name in biases]) if biases else None
        products: list[tuple[slice, LowRank]] = []
        if self._low_ranks is not None and layer is not None:
            start = 0
            for name in names:
                low_rank = self._low_ranks.get((layer, name))
                if low_rank is not None:
                    end = start + len(low_rank.b)
                    products.append((slice(start, end), low_rank))
                    self.leaves[f"{low_rank.module.name}.lora_A"] = low_rank.a
                    self.leaves[f"{low_rank.module.name}.lora_B"] = low_rank.b
                start += self._stored[Role(f"{name}.weight", layer)].shape[0]
        return Product(weight, bias, products, self._scale, self.compute)

    def combination(self, spec: MlpSpec) -> Transform:
        activation = ACTIVATIONS[spec.activation]
        return Gated(activation) if spec.gated else activation

    def norm(self, spec: NormSpec | None, name: str, layer: int | None = None) -> Transform:
        if spec is None:
            return lambda x: x.to(self.compute)
        weight, bias = self.optional(f"{name}.weight", layer), self.optional(f"{name}.bias", layer)
        return TrainedNorm(spec, weight, bias, self.wide, self.compute)

    def norm_per_head(self, spec: AttentionSpec, name: str, layer: int) -> Transform:
        assert spec.qk_norm is not None
        norm = spec.qk_norm.norm
        plain = TrainedNorm(
            replace(norm, has_weight=False, bias=False, weight_offset=0.0),
            None,
            None,
            self.wide,
            self.wide,
        )
        weight = self.tensor(f"{name}.weight", layer)
        bias = self.optional(f"{name}.bias", layer)

        def normalized(x: Tensor) -> Tensor:
            scale = weight.view(-1, spec.head_dim) + norm.weight_offset
            moved = None if bias is None else bias.view(-1, spec.head_dim)
            return NormPerHead(plain, scale, moved)(x)

        return normalized

    def rotary(self, specs: Iterable[RotarySpec], num_positions: int) -> RotaryTables:
        return RotaryTables(specs, num_positions, self.wide, self._device)

    def _joined(self, layer: int | None, names: list[str]) -> Tensor:
        """One matrix, or several of the same input, one below the other."""
        roles = [Role(name, layer) for name in names]
        dtype = self.wide if self.trains_all else self.compute
        pieces = [self._read(role, dtype) for role in roles]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if self.trains_all:
            self.leaves["+".join(map(str, roles))] = joined.requires_grad_()
            start = 0
            for role, piece in zip(roles, pieces, strict=True):
                self.parts[role] = Part(joined, slice(start, start + len(piece)))
                start += len(piece)
        return joined

    def _read(self, role: Role, dtype: torch.dtype) -> Tensor:
        stored = self._stored[role]
        tensor = read_tensor(stored).to(self._device, dtype)
        drop_pages(stored.array)
        return tensor
