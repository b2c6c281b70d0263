"""The native step computes the network it is given: against float64, transformers, a real model."""

import json
from pathlib import Path

import numpy as np
import pytest

from shoal.kernels.native import available, kernel_sets
from shoal.kernels.spec import ModelSpec
from tests.kernels.twin import (
    SPECS,
    Driver,
    bf16_weights,
    double_forward,
    logits_of,
    make_model,
    make_weights,
    random_tokens,
)

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")
STORIES = Path(__file__).parents[3] / "shared/data/models/stories260k"


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, in standard deviations of the wanted logits."""
    return float(np.abs(found - wanted).max() / wanted.std())


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_float32_logits_equal_the_float64_network(name: str, kernel_set: str) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, kernel_set=kernel_set), tokens)
    assert error(found, double_forward(spec, weights, tokens)) < 2e-5


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_logits_are_near_the_float64_network_of_the_same_weights(
    name: str, kernel_set: str
) -> None:
    spec, weights = SPECS[name], bf16_weights(make_weights(SPECS[name]))
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, dtype="bfloat16", kernel_set=kernel_set), tokens)
    assert error(found, double_forward(spec, weights, tokens)) < 0.05


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_int8_logits_are_near_the_float64_network(name: str, kernel_set: str) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, dtype="int8", kernel_set=kernel_set), tokens)
    wanted = double_forward(spec, weights, tokens)
    assert error(found, wanted) < 0.3
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995


@pytest.mark.skipif(not STORIES.exists(), reason="needs shared/data/models/stories260k")
@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("dtype", ["float32"])
def test_stories260k_continues_prompts_like_its_reference(kernel_set: str, dtype: str) -> None:
    from safetensors.numpy import load_file

    config = json.loads((STORIES / "config.json").read_text())
    size = config["head_dim"]
    spec = ModelSpec(
        architecture="llama",
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_size=size,
        mlp_size=config["intermediate_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        tied_embeddings=True,
        inv_freq=tuple((10000.0 ** (-np.arange(0, size, 2) / size)).tolist()),
    )
    model = make_model(
        spec, load_file(STORIES / "model.safetensors"), dtype=dtype, kernel_set=kernel_set
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
