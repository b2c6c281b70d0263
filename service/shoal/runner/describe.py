"""What a network is made of, in plain words, for `shoal check`. Every feature of a spec is named:
one without words of its own by the name of its field."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from shoal.checkpoint.files import ModelFiles
from shoal.model.loader import read_description
from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    ExpertsSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    RotarySpec,
    ShortConvSpec,
    expected_weights,
)
from shoal.protocol.messages import EngineConfig
from shoal.runner.kernel_choice import choose_kernels


@dataclass(frozen=True, slots=True)
class NetworkDescription:
    """What a config describes."""

    family: str
    """Class name of transformers."""
    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_model_len: int
    kv_numbers_per_token: int
    generates: bool
    """Does it write text? An encoder does not."""
    embedding: str | None
    """The vector it makes of a text, in words."""
    features: tuple[str, ...]
    kernels: str
    """native or torch."""
    kernels_reason: str | None
    """Why not what one would expect."""
    unused_keys: tuple[str, ...]
    """Of the config."""


def describe_network(files: ModelFiles, config: EngineConfig) -> NetworkDescription:
    """Raises ModelFolderError for what cannot be read, ConfigError where nothing could compute."""
    _, spec, unused_keys = read_description(files, config.max_model_len or None)
    choice = choose_kernels(config, spec)
    return NetworkDescription(
        family=str(files.config["architectures"][0]),
        num_parameters=sum(math.prod(shape) for shape in expected_weights(spec).values()),
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        vocab_size=spec.vocab_size,
        max_model_len=spec.max_position_embeddings,
        kv_numbers_per_token=spec.kv_numbers_per_token,
        generates=spec.has_head,
        embedding=embedding_words(spec),
        features=tuple(features(spec)),
        kernels=choice.kernels,
        kernels_reason=choice.reason,
        unused_keys=tuple(unused_keys),
    )


def embedding_words(spec: DecoderSpec) -> str | None:
    """What the vector of a sequence is; None for a model that makes none."""
    if spec.embedding is None:
        return None
    pooling = {"mean": "mean of all tokens", "first": "first token", "last": "last token"}
    length = ", of length 1" if spec.embedding.normalized else ", not normalized"
    return f"{spec.hidden_size} numbers, {pooling[spec.embedding.pooling]}{length}"


def features(spec: DecoderSpec) -> list[str]:
    """Each feature once; of what only some layers have, how many."""
    found: dict[str, int] = {}
    for layer in spec.layers:
        for phrase in dict.fromkeys(_of_layer(layer)):
            found[phrase] = found.get(phrase, 0) + 1
    listed = [
        phrase if count == spec.num_layers else f"{phrase} ({count} of {spec.num_layers} layers)"
        for phrase, count in found.items()
    ]
    listed += [phrase for phrase in _other(spec, _DECODER_SIZES) if phrase not in listed]
    return listed if spec.has_head else [*listed, "no head"]


_DECODER_SIZES = "vocab_size hidden_size max_position_embeddings layers final_norm embedding"
_ATTENTION_SIZES = "num_heads num_kv_heads head_dim scale rotary qk_norm causal"
_PHRASES: Mapping[tuple[type, str], str] = {
    (DecoderSpec, "tied_head"): "the embedding is also the head",
    (DecoderSpec, "head_bias"): "bias on the head",
    (DecoderSpec, "learned_positions"): "learned positions",
    (DecoderSpec, "num_token_types"): "the first of {} token types",
    (DecoderSpec, "embedding_multiplier"): "embedding multiplied by {}",
    (DecoderSpec, "logit_soft_cap"): "soft cap {} on logits",
    (DecoderSpec, "logit_multiplier"): "logits multiplied by {}",
    (AttentionSpec, "qkv_bias"): "bias on queries, keys and values",
    (AttentionSpec, "output_bias"): "bias on attention's output",
    (AttentionSpec, "window"): "window of {} tokens",
    (AttentionSpec, "soft_cap"): "soft cap {} on attention scores",
    (AttentionSpec, "clip_qkv"): "queries, keys and values kept within ±{}",
    (LayerSpec, "parallel"): "attention and MLP in parallel",
    (LayerSpec, "residual_multiplier"): "residual branches multiplied by {}",
    (MlpSpec, "bias"): "bias in the MLP",
}


def _of_layer(layer: LayerSpec) -> Iterator[str]:
    mixer = layer.mixer
    if isinstance(mixer, AttentionSpec):
        yield from _of_attention(mixer)
    elif isinstance(mixer, ShortConvSpec):
        yield f"short convolution over {mixer.kernel_size} tokens"
    yield from _of_mlp(layer.mlp)
    if (norm := layer.attention_norm or layer.attention_post_norm) is not None:
        yield _norm(norm)
    if layer.attention_post_norm is not None:
        yield "norm after attention" if layer.attention_norm is None else "norms before and after"
    sizes = "mixer mlp attention_norm mlp_norm attention_post_norm mlp_post_norm"
    yield from _other(layer, sizes)


def _of_attention(attention: AttentionSpec) -> Iterator[str]:
    heads, kv_heads = attention.num_heads, attention.num_kv_heads
    shared = "" if heads == kv_heads else f" sharing {kv_heads} of keys and values"
    yield f"attention with {heads} heads of {attention.head_dim}{shared}"
    if not attention.causal:
        yield "attention in both directions"
    if attention.alibi_slopes is not None:
        yield "ALiBi positions"
    if attention.rotary is not None:
        yield from _of_rotary(attention.rotary, attention.head_dim)
    if attention.qk_norm is not None:
        yield f"{attention.qk_norm.norm.kind} norm of queries and keys"
    yield from _other(attention, f"{_ATTENTION_SIZES} alibi_slopes")


def _of_rotary(rotary: RotarySpec, head_dim: int) -> Iterator[str]:
    rotated = 2 * len(rotary.inv_freq)
    part = "" if rotated == head_dim else f" of {rotated} of {head_dim} channels"
    yield f"rotary positions{part}"
    yield from _other(rotary, "inv_freq")


def _of_mlp(mlp: MlpSpec) -> Iterator[str]:
    kind = "gated MLP" if mlp.gated else "MLP"
    yield f"{kind} of {mlp.intermediate_size} with {mlp.activation}"
    experts = mlp.experts
    if isinstance(experts, ExpertsSpec):
        yield f"{experts.num_experts} experts, {experts.num_experts_per_token} per token"
        yield from _other(experts, "num_experts num_experts_per_token normalized")
    yield from _other(mlp, "intermediate_size activation gated experts")


def _norm(norm: NormSpec) -> str:
    return {"rms": "RMS norm", "layer": "layer norm"}[norm.kind] + (
        f", weights offset by {norm.weight_offset:g}" if norm.weight_offset else ""
    )


def _other(part: Any, described: str) -> Iterator[str]:
    """The fields that are not described elsewhere and not at the default that means "not used"."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name in described.split() or value == field.default or value is False:
            continue
        phrase = _PHRASES.get((type(part), field.name))
        if phrase is not None:
            yield phrase.format(f"{value:g}" if isinstance(value, float) else value)
        elif isinstance(value, tuple) or is_dataclass(value) or value is True:
            yield field.name.replace("_", " ")
        else:
            yield f"{field.name.replace('_', ' ')} {value}"
