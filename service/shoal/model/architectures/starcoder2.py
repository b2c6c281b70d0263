"""StarCoder 2: Llama with layer norms, a plain MLP, biases but of the head, and a window."""

from dataclasses import replace

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import llama
from shoal.model.architectures.base import Architecture, one, only, read_activation, with_biases
from shoal.model.spec import DecoderSpec, NormSpec


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    bias = config.flag("use_bias", True)
    eps = config.number("norm_epsilon", 1e-5)
    config.word("norm_type", "layer_norm", ("layer_norm",))
    config.word("mlp_type", "default", ("default",))
    # Files carry these from the first StarCoder; hidden_act and norm_epsilon are what counts.
    config.word("activation_function", "gelu", ("gelu",))
    same_eps = config.number("layer_norm_epsilon", eps) == eps
    config.require(same_eps, "layer_norm_epsilon", "be equal to norm_epsilon")
    window = None if config.get("sliding_window") is None else config.size("sliding_window")
    spec = llama.read_decoder(
        config,
        max_model_len,
        num_kv_heads=llama.read_num_kv_heads(config, 2),
        head_dim=llama.read_head_dim(config),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        windows=[window] * config.size("num_hidden_layers"),
        norm=NormSpec("layer", eps, bias=True),
        activation=read_activation(config, "hidden_act", "gelu_pytorch_tanh"),
        default_tied=True,
    )
    layers = [replace(layer, mlp=replace(layer.mlp, gated=False)) for layer in spec.layers]
    return replace(spec, layers=tuple(layers))


_LAYER = "model.layers.{layer}."

ARCHITECTURE = Architecture(
    model_type="starcoder2",
    read=read,
    tensors={
        "model.embed_tokens.weight": one("embedding"),
        **with_biases(
            {
                _LAYER + "input_layernorm.weight": one("attention_norm.weight"),
                _LAYER + "self_attn.q_proj.weight": one("q.weight"),
                _LAYER + "self_attn.k_proj.weight": one("k.weight"),
                _LAYER + "self_attn.v_proj.weight": one("v.weight"),
                _LAYER + "self_attn.o_proj.weight": one("output.weight"),
                _LAYER + "post_attention_layernorm.weight": one("mlp_norm.weight"),
                _LAYER + "mlp.c_fc.weight": one("up.weight"),
                _LAYER + "mlp.c_proj.weight": one("down.weight"),
                "model.norm.weight": one("final_norm.weight"),
            }
        ),
        "lm_head.weight": one("head.weight"),
    },
    prefix="model.",
    optional_keys={
        "norm_epsilon": only(),
        "norm_type": only(),
        "mlp_type": only(),
    },
)
