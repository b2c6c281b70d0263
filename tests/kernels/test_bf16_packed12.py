"""bf16 weights that memory would be too slow for are kept in 12 bits, with the same results."""

from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import NativeModel, available, kernel_sets
from shoal.model.spec import Role
from tests.kernels.building import (
    SPECS,
    Weights,
    bf16_weights,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import logits_of

pytest.importorskip("torch")
from tests.kernels.reference import Reference

pytestmark = [
    pytest.mark.skipif(not available(), reason="native kernels are not built"),
    pytest.mark.skipif(
        "avx512bf16" not in kernel_sets(), reason="needs a machine that multiplies bf16 (AVX-512)"
    ),
]


def both(name: str, weights: Weights) -> tuple[NativeModel, NativeModel]:
    """The model beyond the cache and within it."""
    settings: dict[str, Any] = {"dtype": "bfloat16", "kernel_set": "avx512bf16"}
    beyond, within = (
        make_model(SPECS[name], weights, cache_bytes=size, **settings) for size in (0, 1 << 30)
    )
    return beyond, within


def without_small_ones(weights: Weights) -> Weights:
    """Nothing below 2^-13 of the largest of its row or column, but for zeros."""

    def cut(weight: np.ndarray) -> np.ndarray:
        if weight.ndim < 2:
            return weight
        size = np.abs(weight)
        limit = np.maximum(size.max(0, keepdims=True), size.max(1, keepdims=True)) * 2**-13
        return np.where(size < limit, 0, weight).astype(np.float32)

    return {name: cut(weight) for name, weight in weights.items()}


@pytest.mark.parametrize("name", SPECS)
def test_logits_are_the_same_bits_where_no_weight_is_too_small(name: str) -> None:
    weights = bf16_weights(without_small_ones(make_weights(SPECS[name])))
    tokens = random_tokens(SPECS[name], 75)
    beyond, within = both(name, weights)
    for chunk in (75, 1, 5, 7, 12, 13):  # low and tall tiles, one and several
        np.testing.assert_array_equal(
            logits_of(beyond, tokens, chunk), logits_of(within, tokens, chunk)
        )


@pytest.mark.parametrize("name", SPECS)
def test_leaving_out_small_weights_moves_logits_less_than_bf16_rows_do(name: str) -> None:
    spec, weights = SPECS[name], bf16_weights(make_weights(SPECS[name]))
    tokens = random_tokens(spec, 75)
    exact = Reference(spec, weights).forward(tokens)
    found, plain = (logits_of(model, tokens) for model in both(name, weights))
    moved, rounded = (float(np.sqrt((x**2).mean())) for x in (found - plain, plain - exact))
    assert moved < rounded
    assert np.sqrt(((found - exact) ** 2).mean()) < 1.05 * rounded


def test_weights_take_three_quarters_of_the_memory() -> None:
    beyond, within = both("llama", bf16_weights(make_weights(SPECS["llama"])))
    assert 0.7 < beyond.weight_bytes / within.weight_bytes < 0.85


@pytest.mark.parametrize("weight", [1e25, -np.inf, np.nan])
def test_a_matrix_that_it_does_not_suit_stays_bf16(weight: float) -> None:
    spec, weights = SPECS["llama"], without_small_ones(make_weights(SPECS["llama"]))
    tokens = random_tokens(spec, 75)
    before, _ = both("llama", bf16_weights(weights))
    weights[Role("head.weight")][11, 2] = weight
    after, plain = both("llama", bf16_weights(weights))
    assert before.weight_bytes < after.weight_bytes
    np.testing.assert_array_equal(
        np.delete(logits_of(after, tokens), 11, axis=1),
        np.delete(logits_of(before, tokens), 11, axis=1),
    )
    with np.errstate(invalid="ignore"):
        found, wanted = (logits_of(model, tokens)[:, 11] for model in (after, plain))
    np.testing.assert_array_equal(found, wanted)
