"""What families with experts share: how their configs name them, how their files hold them."""

from collections.abc import Mapping
from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import Neutral, TensorSource, TensorTable, one, only
from shoal.model.spec import DecoderSpec, ExpertsSpec

ROLES = {name: f"experts.{{expert}}.{name}.weight" for name in ("gate", "up", "down")}
"""Matrix of an expert -> its role."""


def read_experts(config: Fields, num_experts: int, *, normalized: bool) -> ExpertsSpec:
    """Without a shared expert. Raises ModelFolderError."""
    per_token = config.size("num_experts_per_tok")
    rule = f"be at most the {num_experts} experts"
    config.require(per_token <= num_experts, "num_experts_per_tok", rule)
    return ExpertsSpec(num_experts, per_token, normalized)


def with_experts(spec: DecoderSpec, experts: ExpertsSpec) -> DecoderSpec:
    """Experts on every layer, each as wide as the layer's MLP was."""
    layers = [replace(layer, mlp=replace(layer.mlp, experts=experts)) for layer in spec.layers]
    return replace(spec, layers=tuple(layers))


def with_sparse_layers(config: Fields, spec: DecoderSpec, experts: ExpertsSpec) -> DecoderSpec:
    """Experts, `moe_intermediate_size` wide, on every `decoder_sparse_step`-th layer that is not
    one of `mlp_only_layers` (Qwen)."""
    step = config.size("decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or []
    is_list = isinstance(dense, list) and all(type(index) is int for index in dense)
    config.require(is_list, "mlp_only_layers", "be a list of layers")
    size = config.size("moe_intermediate_size")
    layers = list(spec.layers)
    for index in range(step - 1, len(layers), step):
        if index not in dense:
            mlp = replace(layers[index].mlp, intermediate_size=size, experts=experts)
            layers[index] = replace(layers[index], mlp=mlp)
    return replace(spec, layers=tuple(layers))


def one_by_one(names: Mapping[str, str]) -> TensorTable:
    """A tensor for each matrix of each expert; `names`: role of `ROLES` -> name."""
    return {name: one(ROLES[role]) for role, name in names.items()}


def stacked(gate_up: str, down: str) -> TensorTable:
    """Two tensors with the matrices of all experts."""
    return {
        gate_up: TensorSource((ROLES["gate"], ROLES["up"]), stacked=True),
        down: TensorSource((ROLES["down"],), stacked=True),
    }


_MLP = "model.layers.{layer}.mlp."

QWEN_TENSORS: TensorTable = {
    _MLP + "gate.weight": one("router.weight"),
    **one_by_one({role: f"{_MLP}experts.{{expert}}.{role}_proj.weight" for role in ROLES}),
}
"""As files of most families have them."""
STACKED_TENSORS = stacked(_MLP + "experts.gate_up_proj", _MLP + "experts.down_proj")
"""The same as transformers 5 holds them in memory, and may write them."""

EXPERT_KEYS: Mapping[str, Neutral] = {
    "num_experts": only(0, 1),
    "num_local_experts": only(0, 1),
    "num_experts_per_tok": only(0, 1),
    "moe_intermediate_size": only(),
    "norm_topk_prob": only(False),
    "decoder_sparse_step": only(1),
    "mlp_only_layers": only([]),
    "shared_expert_intermediate_size": only(0),
}
"""Refused by families that do not have them."""
