"""The native step computes the network it is given: every feature against float64; a real model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from shoal.kernels.native import Dtype, available, kernel_sets
from shoal.model.spec import Role, RotarySpec
from tests.kernels.building import (
    RMS,
    SPECS,
    attention,
    bf16_weights,
    error,
    llama,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import Driver, logits_of

torch = pytest.importorskip("torch")
from tests.kernels.reference import Reference, wanted_logits  # noqa: E402

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")
STORIES = Path(__file__).parents[3] / "shared/data/models/stories260k"


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_float32_logits_equal_the_float64_network(name: str, kernel_set: str) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, kernel_set=kernel_set), tokens)
    assert error(found, wanted_logits(spec, 75)) < 2e-5


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_logits_are_near_the_float64_network_of_the_same_weights(
    name: str, kernel_set: str
) -> None:
    spec, weights = SPECS[name], bf16_weights(make_weights(SPECS[name]))
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, dtype="bfloat16", kernel_set=kernel_set), tokens)
    # Dot products of bfloat16 round the activations as well.
    limit = 0.1 if kernel_set == "avx512bf16" else 0.05
    assert error(found, wanted_logits(spec, 75, rounded=True)) < limit


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "correlation"), [("int8", 0.998), ("int4", 0.9)])
def test_integer_logits_are_near_the_float64_network(
    dtype: Dtype, correlation: float, name: str, kernel_set: str
) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, dtype=dtype, kernel_set=kernel_set), tokens)
    wanted = wanted_logits(spec, 75)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > correlation


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_integer_logits_follow_the_reference_that_rounds_alike(
    dtype: Literal["int8", "int4"], name: str, kernel_set: str
) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 60)
    found = logits_of(make_model(spec, weights, dtype=dtype, kernel_set=kernel_set), tokens)
    wanted = wanted_logits(spec, 60, arithmetic=dtype)
    # A value that lies on the border between two integers may fall to either side.
    assert np.abs(found - wanted).mean() / wanted.std() < 0.01


@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_logits_follow_the_reference_that_rounds_alike(name: str) -> None:
    spec, weights = SPECS[name], bf16_weights(make_weights(SPECS[name]))
    tokens = random_tokens(spec, 60)
    wanted = wanted_logits(spec, 60, rounded=True, arithmetic="bfloat16")
    found = logits_of(make_model(spec, weights, dtype="bfloat16", kernel_set="portable"), tokens)
    assert np.abs(found - wanted).max() / wanted.std() < 0.02


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kernel_set", [x for x in kernel_sets() if x in ("avx2", "avx512")])
def test_bfloat16_logits_follow_the_reference_of_the_same_integers(
    name: str, kernel_set: str
) -> None:
    spec, difference, rounding = SPECS[name], 0.0, 0.0
    for seed in range(3):
        weights, tokens = bf16_weights(make_weights(spec, seed)), random_tokens(spec, 60, seed)
        model = make_model(spec, weights, dtype="bfloat16", kernel_set=kernel_set)
        seeds: dict[str, Any] = {"seed": seed, "token_seed": seed, "rounded": True}
        wanted = wanted_logits(spec, 60, **seeds, arithmetic="int16_block")
        exact = wanted_logits(spec, 60, **seeds, arithmetic="bfloat16")
        difference += np.abs(logits_of(model, tokens) - wanted).mean() / wanted.std() / 3
        rounding += np.abs(exact - wanted).mean() / wanted.std() / 3
    # A key or value on the border between two bfloat16 numbers may fall to either side, in each
    # layer; without the integers the difference would be all of the rounding.
    assert difference < 1.5e-4 * spec.num_layers
    assert difference < 0.6 * rounding


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-5), ("bfloat16", 0.05)])
def test_long_contexts_and_many_layers_stay_near_the_float64_network(
    dtype: Dtype, limit: float
) -> None:
    spec = replace(SPECS["gemma"], layers=SPECS["gemma"].layers * 3)
    weights = make_weights(spec)
    weights = bf16_weights(weights) if dtype == "bfloat16" else weights
    tokens = random_tokens(spec, 500)
    found = logits_of(make_model(spec, weights, dtype=dtype, num_threads=2), tokens, 64)
    assert error(found, Reference(spec, weights).forward(tokens)) < limit * 2


@pytest.mark.skipif(not STORIES.exists(), reason="needs shared/data/models/stories260k")
@pytest.mark.parametrize("kernel_set", kernel_sets())
def test_stories260k_continues_prompts_like_its_reference(kernel_set: str) -> None:
    from safetensors.numpy import load_file

    config = json.loads((STORIES / "config.json").read_text())
    size = config["head_dim"]
    freq = RotarySpec(tuple((10000.0 ** (-np.arange(0, size, 2) / size)).tolist()))
    heads = attention(
        config["num_attention_heads"], config["num_key_value_heads"], size, rotary=freq
    )
    spec = llama(
        heads,
        num_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        max_position_embeddings=config["max_position_embeddings"],
        tied_head=True,
    )
    layer = replace(
        spec.layers[0],
        mlp=replace(spec.layers[0].mlp, intermediate_size=config["intermediate_size"]),
    )
    spec = replace(spec, layers=(layer,) * spec.num_layers)
    assert config["rms_norm_eps"] == RMS.eps
    model = make_model(
        spec, llama_roles(load_file(STORIES / "model.safetensors")), kernel_set=kernel_set
    )
    driver = Driver(model)
    for case in json.loads((STORIES / "reference-greedy.json").read_text())["cases"]:
        new, output = case["prompt_ids"], []
        seq = len(driver.tables)
        while len(output) < len(case["output_ids"]):
            inputs = list(driver.arrays([(seq, new)]))
            inputs[-1] = inputs[-1][-1:]
            output.append(int(model.forward_greedy(*inputs)[0]))
            new = output[-1:]
        assert output == case["output_ids"]


def llama_roles(tensors: dict[str, np.ndarray]) -> dict[Role, np.ndarray]:
    """Roles of a Llama checkpoint's tensors."""
    names = {
        "input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm",
        "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v",
        "self_attn.o_proj": "output", "mlp.gate_proj": "gate", "mlp.up_proj": "up",
        "mlp.down_proj": "down",
    }  # fmt: skip
    roles = {
        Role("embedding"): tensors["model.embed_tokens.weight"],
        Role("final_norm.weight"): tensors["model.norm.weight"],
    }
    for name, tensor in tensors.items():
        if name.startswith("model.layers."):
            _, _, layer, *middle, kind = name.split(".")
            roles[Role(f"{names['.'.join(middle)]}.{kind}", int(layer))] = tensor
    return roles
