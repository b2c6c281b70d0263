"""Granite with experts on every layer. Its softmax over the picked logits alone is the one over all
divided by what was picked."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import granite, llama
from shoal.model.architectures.base import Architecture, one
from shoal.model.architectures.experts import read_experts, stacked, with_experts
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    num_experts = config.size("num_local_experts")
    config.require(not config.flag("mlp_bias", False), "mlp_bias", "be false")
    experts = read_experts(config, num_experts, normalized=True)
    return with_experts(granite.read(config, max_model_len), experts)


_MLP = "model.layers.{layer}.block_sparse_moe."

ARCHITECTURE = Architecture(
    model_type="granitemoe",
    read=read,
    tensors={
        **llama.TENSORS,
        _MLP + "router.layer.weight": one("router.weight"),
        **stacked(_MLP + "input_linear.weight", _MLP + "output_linear.weight"),
    },
    prefix="model.",
    optional_keys={},
    other_layout={
        _MLP + "router.weight": one("router.weight"),
        **stacked(_MLP + "experts.gate_up_proj", _MLP + "experts.down_proj"),
    },
)
