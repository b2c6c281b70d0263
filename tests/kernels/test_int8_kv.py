"""Keys and values as int8: what is kept, how little it changes, the same bits in any company."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.kernels.native import Dtype, available, kernel_sets
from shoal.model.spec import MlpSpec, Role
from tests.kernels.building import (
    SPECS,
    attention,
    bf16_weights,
    llama,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import Driver, logits_of, run_random_chunks
from tests.kernels.random_specs import random_spec

torch = pytest.importorskip("torch")
from tests.kernels.reference import Reference, wanted_logits  # noqa: E402

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")


class Int8KVReference(Reference):
    """Keys and values rounded to int8, one scale per token and head; all else is exact."""

    def _cached(self, x: Any) -> Any:
        rows = x.float()
        largest = rows.abs().amax(-1, keepdim=True)
        integers = torch.round(rows * (127 / largest.clamp_min(1e-30)))
        return (integers * (largest / 127)).to(x.dtype)


def log_probs(logits: NDArray[Any]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


def mean_kl(logits: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Of the wanted distributions to those found, nats per token."""
    p, q = log_probs(wanted), log_probs(logits)
    return float((np.exp(p) * (p - q)).sum(1).mean())


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_logits_are_those_of_the_network_with_rounded_keys_and_values(
    name: str, kernel_set: str
) -> None:
    spec, difference, rounding = SPECS[name], 0.0, 0.0
    for seed in range(3):
        weights, tokens = make_weights(spec, seed), random_tokens(spec, 40, seed)
        model = make_model(spec, weights, kernel_set=kernel_set, kv_dtype="int8")
        found = logits_of(model, tokens)
        seeds = {"seed": seed, "token_seed": seed}
        wanted = wanted_logits(spec, 40, network=Int8KVReference, **seeds)
        exact = wanted_logits(spec, 40, **seeds)
        difference += np.abs(found - wanted).mean() / wanted.std()
        rounding += np.abs(exact - wanted).mean() / wanted.std()
    # A number on the border between two integers may fall to either side.
    assert difference < 0.25 * rounding


def test_a_deep_model_hardly_notices() -> None:
    """Heads, depth and sharing of SmolLM2-135M, narrower inside; random weights."""
    spec = llama(
        attention(9, 3, 64), mlp=MlpSpec(384), num_layers=30, hidden_size=576, vocab_size=2000
    )
    weights, tokens = bf16_weights(make_weights(spec)), random_tokens(spec, 300)
    exact, bf16, int8 = (
        logits_of(make_model(spec, weights, dtype=dtype, kv_dtype=kv_dtype, num_threads=2), tokens)
        for dtype, kv_dtype in (("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "int8"))
    )
    assert mean_kl(bf16, exact) < 6e-5
    assert mean_kl(int8, exact) < 3e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", ["llama", "llama_odd", "gemma", "bloom", 3, 8])
def test_a_row_gets_the_same_bits_in_any_company(
    name: str | int, kernel_set: str, dtype: Dtype
) -> None:
    spec = SPECS[name] if isinstance(name, str) else random_spec(name)
    weights = make_weights(spec)
    weights = bf16_weights(weights) if dtype == "bfloat16" else weights
    one, two = (
        make_model(
            spec, weights, dtype=dtype, kernel_set=kernel_set, num_threads=n, kv_dtype="int8"
        )
        for n in (1, 2)
    )
    prompts = [random_tokens(spec, 3 + 17 * i, seed=i) for i in range(5)]
    alone = [logits_of(one, prompt) for prompt in prompts]
    for model, biggest in ((one, 1), (one, 30), (two, 9), (two, 80)):
        for found, wanted in zip(run_random_chunks(model, prompts, 0, biggest), alone, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_block_takes_little_more_than_half() -> None:
    spec = llama(attention(9, 3, 64))
    halves, bytes_ = (
        make_model(spec, make_weights(spec), dtype="bfloat16", kv_dtype=kv_dtype).block_bytes
        for kv_dtype in ("auto", "int8")
    )
    assert halves == spec.kv_numbers_per_token * 16 * 2
    assert bytes_ == 16 * (spec.kv_numbers_per_token + 2 * 2 * 3 * 4)  # scales: K, V; layers; heads


def test_a_copied_block_continues_like_the_original() -> None:
    spec = SPECS["llama"]
    model = make_model(spec, make_weights(spec), kv_dtype="int8")
    prompt, rest = random_tokens(spec, 41), random_tokens(spec, 20, seed=2)
    driver = Driver(model)
    driver.step([(0, prompt)])
    last = driver.free.pop()
    model.copy_block(driver.tables[0][-1], last)
    driver.tables[1], driver.lengths[1] = [*driver.tables[0][:-1], last], 41
    np.testing.assert_array_equal(driver.step([(1, rest)]), driver.step([(0, rest)]))


def test_what_a_block_held_before_leaves_no_trace() -> None:
    """Even NaN keys and values of a finished sequence do not reach the next owner of its block."""
    spec, weights = SPECS["llama"], make_weights(SPECS["llama"])
    weights[Role("embedding")][7] = np.nan  # token 7 poisons whoever sees it
    model = make_model(spec, weights, num_blocks=4, kv_dtype="int8")
    tokens = [t for t in random_tokens(spec, 40) if t != 7][:37]
    wanted = logits_of(model, tokens)
    assert np.isfinite(wanted).all()
    assert np.isnan(logits_of(model, [7] * 64)).all()
    for chunk in (64, 1, 6):
        np.testing.assert_array_equal(logits_of(model, tokens, chunk), wanted)
