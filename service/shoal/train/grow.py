"""Growing a trained network: more layers and wider MLPs that compute the same at first."""

from __future__ import annotations

from dataclasses import replace

from shoal.train.config import ModelShape, RecipeError
from shoal.train.network import Llama


def grow(network: Llama, shape: ModelShape, seed: int) -> Llama:
    """A network of more layers or wider MLPs with the same output (Chen et al. 2016, "Net2Net").

    New layers and channels add nothing at first: their output projections are zero. New layers are
    spread evenly between the old ones. Raises `RecipeError` where `shape` differs in anything else.
    """
    old = network.shape
    grown = replace(
        old,
        num_layers=max(old.num_layers, shape.num_layers),
        intermediate_size=max(old.intermediate_size, shape.intermediate_size),
    )
    if replace(shape, dropout=old.dropout, context=old.context) != grown:
        raise RecipeError(
            f"a base of {_sizes(old)} cannot grow to {_sizes(shape)}: only num_layers and "
            "intermediate_size can increase"
        )
    larger = Llama(grown, network.vocab_size, network.lm_head is None)
    larger.initialize(seed)
    num_new = grown.num_layers - old.num_layers
    new_before = [-(-(index + 1) * old.num_layers // (num_new + 1)) for index in range(num_new)]
    new_index = [
        layer + sum(before <= layer for before in new_before) for layer in range(old.num_layers)
    ]
    weights = larger.state_dict()
    for name, weight in network.state_dict().items():
        parts = name.split(".")
        if parts[1] == "layers":
            name = ".".join([*parts[:2], str(new_index[int(parts[2])]), *parts[3:]])
        weights[name][tuple(slice(size) for size in weight.shape)] = weight
    larger.load_state_dict(weights)
    return larger


def _sizes(shape: ModelShape) -> str:
    return (
        f"{shape.num_layers} layers, hidden size {shape.hidden_size}, MLP "
        f"{shape.intermediate_size}, {shape.num_heads} heads of {shape.head_dim}, "
        f"{shape.num_kv_heads} KV heads"
    )
