"""Mixtral: Llama with experts on every layer, and a window on all or none."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one, read_size
from shoal.model.architectures.experts import (
    STACKED_TENSORS,
    one_by_one,
    read_experts,
    with_experts,
)
from shoal.model.architectures.rope import read_rotary
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    window = None if config.get("sliding_window") is None else config.size("sliding_window")
    head_dim = llama.read_head_dim(config)
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 8),
        head_dim=head_dim,
        windows=[window] * config.size("num_hidden_layers"),
        norm=llama.read_rms_norm(config, 1e-5),
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            default_theta=1e6,
        ),
    )
    num_experts = read_size(config, "num_local_experts", "num_experts")
    return with_experts(spec, read_experts(config, num_experts, normalized=True))


_MLP = "model.layers.{layer}.block_sparse_moe."

ARCHITECTURE = Architecture(
    model_type="mixtral",
    read=read,
    tensors={
        **llama.TENSORS,
        _MLP + "gate.weight": one("router.weight"),
        **one_by_one(
            {
                "gate": _MLP + "experts.{expert}.w1.weight",
                "up": _MLP + "experts.{expert}.w3.weight",
                "down": _MLP + "experts.{expert}.w2.weight",
            }
        ),
    },
    prefix="model.",
    optional_keys={},
    other_layout={
        "model.layers.{layer}.mlp.gate.weight": one("router.weight"),
        **STACKED_TENSORS,
    },
)
