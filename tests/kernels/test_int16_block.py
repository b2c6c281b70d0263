"""Where bf16 weights are multiplied as 16-bit integers, that costs less than bf16 rows would."""

from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import KernelSet, available, kernel_sets
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

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

SETS: list[Any] = [name for name in kernel_sets() if name in ("avx2", "avx512")]
"""Those that keep bf16 weights as integers; the portable one computes them exactly."""


def compare(name: str, weights: Weights, kernel_set: KernelSet) -> float:
    """Root mean square difference to exact products, in standard deviations of the logits."""
    spec, tokens = SPECS[name], random_tokens(SPECS[name], 75)
    settings: dict[str, Any] = {"dtype": "bfloat16"}
    found = logits_of(make_model(spec, weights, kernel_set=kernel_set, **settings), tokens)
    exact = logits_of(make_model(spec, weights, kernel_set="portable", **settings), tokens)
    return float(np.sqrt(((found - exact) ** 2).mean()) / exact.std())


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("name", SPECS)
def test_logits_are_nearly_those_of_exact_products(name: str, kernel_set: KernelSet) -> None:
    # Most of it comes from keys and values that fall to the other side when they become bf16.
    assert compare(name, bf16_weights(make_weights(SPECS[name])), kernel_set) < 2e-3


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize(("weight", "is_exact"), [(300.0, True), (1e-30, False), (1e35, True)])
def test_a_matrix_that_integers_do_not_suit_stays_bf16(
    kernel_set: KernelSet, weight: float, is_exact: bool
) -> None:
    spec, weights = SPECS["llama"], make_weights(SPECS["llama"])
    tokens = random_tokens(spec, 75)
    before = make_model(spec, bf16_weights(weights), dtype="bfloat16", kernel_set=kernel_set)
    weights[Role("head.weight")][11, 2] = weight
    after = make_model(spec, bf16_weights(weights), dtype="bfloat16", kernel_set=kernel_set)
    # The integers of an output share a scale, which bf16 weights do not have.
    assert (after.weight_bytes < before.weight_bytes) == is_exact
    others = np.arange(spec.vocab_size) != 11
    wanted, found = logits_of(before, tokens), logits_of(after, tokens)
    assert np.isfinite(found).all()
    assert np.abs(found - wanted)[:, others].max() / wanted.std() < 1e-3
