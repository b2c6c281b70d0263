"""The native kernels against their PyTorch twins, which round where the kernels round."""

import numpy as np
import pytest

from shoal.kernels.native import available, kernel_sets
from tests.kernels.twin import (
    SPECS,
    bf16_weights,
    double_forward,
    logits_of,
    make_model,
    make_weights,
    random_tokens,
)

torch = pytest.importorskip("torch")
from shoal.kernels.reference import ReferenceModel, linear, quantize_rows  # noqa: E402


@pytest.mark.skipif(not available(), reason="native kernels are not built")
@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_int8_logits_follow_the_twin_that_quantises_alike(name: str, kernel_set: str) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 60)
    found = logits_of(make_model(spec, weights, dtype="int8", kernel_set=kernel_set), tokens)
    wanted = ReferenceModel(spec, weights, "int8").forward(tokens)
    # A value that lies on the border between two integers may fall to either side.
    assert np.abs(found - wanted).mean() / wanted.std() < 0.01


@pytest.mark.skipif(not available(), reason="native kernels are not built")
@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_logits_follow_the_twin(name: str) -> None:
    spec, weights = SPECS[name], bf16_weights(make_weights(SPECS[name]))
    tokens = random_tokens(spec, 60)
    wanted = ReferenceModel(spec, weights, "bfloat16").forward(tokens)
    found = logits_of(make_model(spec, weights, dtype="bfloat16", kernel_set="portable"), tokens)
    assert np.abs(found - wanted).max() / wanted.std() < 0.02


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kernel_set", [x for x in kernel_sets() if x in ("avx2", "avx512")])
def test_bfloat16_logits_follow_the_twin_of_the_same_integers(name: str, kernel_set: str) -> None:
    spec, weights = SPECS[name], bf16_weights(make_weights(SPECS[name]))
    tokens = random_tokens(spec, 60)
    found = logits_of(make_model(spec, weights, dtype="bfloat16", kernel_set=kernel_set), tokens)
    wanted = ReferenceModel(spec, weights, "fixed16").forward(tokens)
    exact = ReferenceModel(spec, weights, "bfloat16").forward(tokens)
    # A key or value on the border between two bfloat16 numbers may fall to either side.
    difference, rounding = np.abs(found - wanted).mean(), np.abs(exact - wanted).mean()
    assert difference / wanted.std() < 3e-4
    assert difference < rounding / 2


@pytest.mark.parametrize("name", SPECS)
def test_the_twin_is_the_float64_network(name: str) -> None:
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 60)
    wanted = double_forward(spec, weights, tokens)
    found = ReferenceModel(spec, weights).forward(tokens)
    assert np.abs(found - wanted).max() / wanted.std() < 2e-5


def test_quantised_rows_stay_within_half_a_step() -> None:
    x = torch.randn(20, 300, generator=torch.Generator().manual_seed(0))
    integers, scale = quantize_rows(x)
    assert integers.abs().max() == 127
    assert ((integers * scale - x).abs() <= 0.5001 * scale).all()
    exact = linear(x, x, None, "float32")
    assert (linear(x, x, None, "int8") - exact).abs().max() < 0.02 * exact.max()
