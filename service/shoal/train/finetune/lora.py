"""Low-rank adapters (LoRA, Hu et al., 2021): which modules have them, and how they begin."""

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from shoal.checkpoint.adapter import ALL_LINEAR
from shoal.model.adapter import ADAPTED_ROLES, linear_modules
from shoal.model.architectures.base import Architecture
from shoal.model.spec import DecoderSpec, Role, expected_weights
from shoal.train.config import RecipeError
from shoal.train.finetune.rows import LoraSettings


class AdaptedModule(NamedTuple):
    """A linear module of the base as its file names it; several matrices where it is fused."""

    name: str
    """ "model.layers.0.self_attn.q_proj" """
    layer: int
    roles: tuple[str, ...]
    """ "q" for `q.weight`; in the order of the file."""
    outputs: tuple[int, ...]
    """Of each role."""
    inputs: int
    num_groups: int
    """Outputs in the file alternate: a share of each role, so many times (TensorSource)."""


class LowRank(NamedTuple):
    """The trained product of a module: y += (alpha / rank) b (a x)."""

    module: AdaptedModule
    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank], the rows of the first role, then of the next

    def b_by_role(self) -> list[Tensor]:
        """The rows of each role, views."""
        b, ends = self.b.detach(), accumulate(self.module.outputs)
        sizes = self.module.outputs
        return [b[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def make_lora(
    architecture: Architecture,
    spec: DecoderSpec,
    rank: int,
    alpha: float,
    targets: Iterable[str] = (ALL_LINEAR,),
) -> LoraSettings:
    """`targets`: "all-linear", roles ("q", "down"), or modules as the family's files name them
    ("q_proj", "attn.c_attn"). Raises RecipeError that names what this base has."""
    modules = adaptable(architecture, spec)
    found: set[str] = set()
    for target in targets:
        roles = _resolve(target, modules)
        if not roles:
            names = sorted({module.name.rpartition(".")[2] for module in modules})
            known = sorted({role for module in modules for role in module.roles})
            raise RecipeError(
                f"LoRA target {target!r} is none of this base: choose among {ALL_LINEAR}, "
                f"{', '.join(names)} or {', '.join(known)}"
            )
        found |= roles
    if not found:
        raise RecipeError(f"LoRA has no targets: name some, or {ALL_LINEAR}")
    for module in modules:
        missing = [role for role in module.roles if role not in found]
        if missing and len(missing) < len(module.roles):
            raise RecipeError(
                f"LoRA targets: {module.name} holds {', '.join(module.roles)} in one matrix: "
                f"name {', '.join(missing)} too, or none of them"
            )
    return LoraSettings(rank, alpha, tuple(sorted(found)))


def _resolve(target: str, modules: Iterable[AdaptedModule]) -> set[str]:
    if target == ALL_LINEAR:
        return {role for module in modules for role in module.roles}
    return {
        role
        for module in modules
        for role in module.roles
        if role == target or module.name == target or module.name.endswith("." + target)
    }


def adaptable(architecture: Architecture, spec: DecoderSpec) -> list[AdaptedModule]:
    """All modules that an adapter may change, in the order of the family's table."""
    sizes = expected_weights(spec)
    found: list[AdaptedModule] = []
    for name, source, layer in linear_modules(architecture, spec):
        roles = tuple(role.removesuffix(".weight") for role in source.roles)
        if layer is None or not set(roles) <= ADAPTED_ROLES:
            continue
        shapes = [sizes[Role(role, layer)] for role in source.roles]
        groups = spec.layers[layer].attention.num_kv_heads if source.by_kv_head else 1
        outputs = tuple(shape[0] for shape in shapes)
        found.append(AdaptedModule(name, layer, roles, outputs, shapes[0][1], groups))
    return found


def new_low_ranks(
    architecture: Architecture,
    spec: DecoderSpec,
    lora: LoraSettings,
    *,
    seed: int,
    dtype: torch.dtype,
    device: str,
) -> Mapping[tuple[int, str], LowRank]:
    """(layer, first role) -> its product, as peft begins: a uniform within 1 / sqrt(in)
    (Kaiming with a = sqrt(5)), b zero, so that the network computes what its base does."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[int, str], LowRank] = {}
    for module in adaptable(architecture, spec):
        if not set(module.roles) <= set(lora.targets):
            continue
        limit = 1 / math.sqrt(module.inputs)
        a = torch.empty(lora.rank, module.inputs).uniform_(-limit, limit, generator=generator)
        b = torch.zeros(sum(module.outputs), lora.rank)
        leaves = (x.to(device, dtype).requires_grad_() for x in (a, b))
        found[module.layer, module.roles[0]] = LowRank(module, *leaves)
    return found
