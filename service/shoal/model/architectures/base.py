"""The interface of a family, and what all families share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shoal.checkpoint.fields import Fields
from shoal.model.spec import Activation, DecoderSpec

Neutral = Callable[[Any, Fields], bool]
"""Does this value of a key change nothing? Also sees the whole config."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """One tensor of the file, and the weights that lie in it."""

    roles: tuple[str, ...]
    """Several roles (a fused tensor): in this order along the output channels."""
    transposed: bool = False
    """Stored [in, out] (GPT-2's Conv1D)."""
    by_kv_head: bool = False
    """Several roles (q, k, v) whose output channels alternate: one KV head's share of each role
    after the other (GPT-NeoX, BLOOM, Falcon)."""
    first_row: int = 0
    """Rows before it are not used (OPT's positions)."""
    per_head: bool = False
    """One role, [heads * head_dim], that is stored as [heads, head_dim] (Cohere), or, where the
    name holds `{head}`, as one tensor [head_dim] per head (StableLM)."""
    depthwise: bool = False
    """Stored [channels, 1, kernel], a convolution of each channel by itself; the weight is
    [channels, kernel]."""
    stacked: bool = False
    """Matrices of all experts in one tensor [experts, out, in]. Otherwise there is one tensor per
    expert, and its name holds `{expert}`; the roles do in both cases."""


TensorTable = Mapping[str, TensorSource]
"""Tensor name in the file -> what is in it. `{layer}` in a name stands for every layer's index, and
the roles are that layer's; `{head}`: see `per_head`."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family: how its config is read, and how its weights are named."""

    model_type: str
    """`model_type` of its config."""
    read: Callable[[Fields, int | None], DecoderSpec]
    """(config, longest sequence that will be served or None for the model's own) -> spec. Raises
    ModelFolderError that names the key."""
    tensors: TensorTable
    prefix: str
    """Of every tensor name but the head's; files saved without the head leave it out."""
    optional_keys: Mapping[str, Neutral]
    """Config keys that this family reads and others may not. A family that does not read one
    refuses any value that is not neutral."""
    tensors_of: Callable[[DecoderSpec], TensorTable] | None = None
    """Further tensors, where the spec decides what a name means."""
    older_names: Mapping[str, str] = field(default_factory=dict)
    """Tensor name in older files -> in `tensors`."""
    other_layout: TensorTable = field(default_factory=dict)
    """Other names, or other tensors, of some of the weights in `tensors`. A file that has one of
    these has all of them instead."""

    unused: tuple[str, ...] = ()
    """How names of tensors begin that its files may have and no network here needs: of a pooler or
    of a head that an encoder does without. They are named in the log."""

    def table(self, spec: DecoderSpec) -> TensorTable:
        """All tensors that a network of this spec may have."""
        return (
            self.tensors if self.tensors_of is None else {**self.tensors, **self.tensors_of(spec)}
        )


def only(*values: Any) -> Neutral:
    """Neutral are these values."""
    return lambda value, config: value in values


def same_as(key: str) -> Neutral:
    """Neutral is what the config says under another key."""
    return lambda value, config: value == config.get(key)


def one(role: str) -> TensorSource:
    """A tensor that is one weight as it stands."""
    return TensorSource((role,))


def with_biases(tensors: TensorTable) -> dict[str, TensorSource]:
    """The same weights, and for each `x.weight` the bias `x.bias` beside it."""
    found = dict(tensors)
    for name, source in tensors.items():
        roles = tuple(role.removesuffix("weight") + "bias" for role in source.roles)
        bias = replace(source, roles=roles, transposed=False)
        found[name.removesuffix("weight") + "bias"] = bias
    return found


ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Names in a config; those of one activation differ in how it is computed, not in its value."""


def read_size(config: Fields, key: str, other: str) -> int:
    """A size that the family names `key` and other families `other`; transformers reads both, so
    where both are there they must be equal. Raises ModelFolderError."""
    if config.get(key) is None and config.get(other) is not None:
        return config.size(other)
    size = config.size(key)
    config.require(config.size(other, size) == size, other, f"be equal to {key}")
    return size


def read_activation(config: Fields, key: str, default: str) -> Activation:
    """The MLP's activation. Raises ModelFolderError."""
    return ACTIVATIONS[config.word(key, default, ACTIVATIONS)]
