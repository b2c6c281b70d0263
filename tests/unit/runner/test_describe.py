"""The words for a network: each feature once, none left out."""

from dataclasses import fields, replace
from typing import Any

import pytest

from shoal.model.registry import read_model
from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, ShortConvSpec
from shoal.runner.describe import features
from tests.fakes.tiny_models import CONFIGS


def spec_of(kind: str) -> DecoderSpec:
    return read_model(CONFIGS[kind], "tiny/config.json").spec


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("llama", ["attention with 6 heads of 8 sharing 2 of keys and values", "RMS norm"]),
        ("gpt2", ["learned positions", "layer norm", "MLP of 128 with gelu_tanh"]),
        ("phi", ["attention and MLP in parallel", "rotary positions of 6 of 12 channels"]),
        ("qwen2", ["bias on queries, keys and values"]),
        ("qwen3", ["rms norm of queries and keys"]),
    ],
)
def test_families_are_described_by_what_they_have(kind: str, words: list[str]) -> None:
    found = features(spec_of(kind))
    assert set(words) <= set(found)
    assert len(found) == len(set(found))


def changed(spec: DecoderSpec, layers: slice = slice(None), **changes: Any) -> DecoderSpec:
    """Changes of the named part in these layers."""
    chosen = set(range(spec.num_layers)[layers])
    new = []
    for index, layer in enumerate(spec.layers):
        mixer, mlp = layer.attention, layer.mlp
        own = {f.name for f in fields(AttentionSpec)}
        if index in chosen:
            mixer = replace(mixer, **{k: v for k, v in changes.items() if k in own})
            own_mlp = {f.name for f in fields(MlpSpec)}
            mlp = replace(mlp, **{k: v for k, v in changes.items() if k in own_mlp - own})
        new.append(replace(layer, mixer=mixer, mlp=mlp))
    return replace(spec, layers=tuple(new))


def test_what_only_some_layers_have_is_counted() -> None:
    assert "window of 9 tokens (1 of 2 layers)" in features(
        changed(spec_of("llama"), slice(0, 1), window=9)
    )
    llama = spec_of("llama")
    first, second = llama.layers
    mixed = replace(llama, layers=(replace(first, mixer=ShortConvSpec(3)), second))
    assert "short convolution over 3 tokens (1 of 2 layers)" in features(mixed)


VALUES: dict[type, dict[str, Any]] = {
    AttentionSpec: {
        "qkv_bias": True,
        "output_bias": True,
        "window": 7,
        "soft_cap": 30.0,
        "clip_qkv": 6.0,
        "alibi_slopes": (0.5,) * 6,
    },
    LayerSpec: {"parallel": True, "post_norm_of": "sum", "residual_multiplier": 0.5},
    DecoderSpec: {
        "head_bias": True,
        "learned_positions": True,
        "embedding_multiplier": 3.0,
        "embedding_size": 24,
        "logit_multiplier": 0.25,
        "logit_soft_cap": 30.0,
    },
}


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, values in VALUES.items() for field in values]
)
def test_every_feature_that_is_used_is_named(kind: type, field: str) -> None:
    spec = spec_of("llama")
    value = VALUES[kind][field]
    if kind is DecoderSpec:
        other = replace(spec, **{field: value})
    elif kind is LayerSpec:
        other = replace(
            spec, layers=tuple(replace(layer, **{field: value}) for layer in spec.layers)
        )
    else:
        other = changed(spec, **{field: value})
    assert len(set(features(other)) - set(features(spec))) == 1
