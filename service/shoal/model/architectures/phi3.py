"""Phi 3, 3.5 and 4 mini: Llama with fused matrices, longrope and partial rotary positions, and a
window on every layer of some."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, TensorSource, one
from shoal.model.architectures.rope import read_rotary, rope_settings
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    head_dim = llama.read_head_dim(config)
    is_long = rope_settings(config).get("long_factor") is not None
    has_original = config.get("original_max_position_embeddings") is not None
    rule = "be given: where longrope begins is not read from elsewhere"
    config.require(has_original or not is_long, "original_max_position_embeddings", rule)
    window = None
    if config.get("sliding_window") is not None:
        window = config.size("sliding_window")
    return llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, None),
        head_dim=head_dim,
        norm=llama.read_rms_norm(config, 1e-5),
        rotary=read_rotary(
            config,
            head_dim=head_dim,
            max_position_embeddings=config.size("max_position_embeddings"),
            max_model_len=max_model_len,
            kinds=("default", "longrope"),
        ),
        windows=[window] * config.size("num_hidden_layers"),
    )


ARCHITECTURE = Architecture(
    model_type="phi3",
    read=read,
    tensors={
        **{
            name: source
            for name, source in llama.TENSORS.items()
            if not name.endswith(".bias") and "_proj" not in name
        },
        "model.layers.{layer}.self_attn.qkv_proj.weight": TensorSource(
            ("q.weight", "k.weight", "v.weight")
        ),
        "model.layers.{layer}.self_attn.o_proj.weight": one("output.weight"),
        "model.layers.{layer}.mlp.gate_up_proj.weight": TensorSource(("gate.weight", "up.weight")),
        "model.layers.{layer}.mlp.down_proj.weight": one("down.weight"),
    },
    prefix="model.",
    optional_keys={},
)
