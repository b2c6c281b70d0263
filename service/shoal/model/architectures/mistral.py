"""Mistral: Llama with a window on every layer. The class's own default is a window of 4096."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture
from shoal.model.spec import DecoderSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    window = None
    if config.get("sliding_window") is not None or not config.has("sliding_window"):
        window = config.size("sliding_window", 4096)
    is_used = config.flag("use_sliding_window", window is not None)
    config.require(is_used == (window is not None), "use_sliding_window", "fit sliding_window")
    return llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 8),
        head_dim=llama.read_head_dim(config),
        windows=[window] * config.size("num_hidden_layers"),
    )


ARCHITECTURE = Architecture(
    model_type="mistral",
    read=read,
    tensors=llama.TENSORS,
    prefix="model.",
    optional_keys={"sliding_window": llama.has_no_effect},
)
