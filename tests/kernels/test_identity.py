"""One row's logits are the same bits alone, in any batch, in any chunks, on one thread or two."""

from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import Dtype, available, kernel_sets
from shoal.model.spec import DecoderSpec, Role
from tests.kernels.building import (
    SPECS,
    Weights,
    attention,
    bf16_weights,
    llama,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import Driver, logits_of, run_random_chunks

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

DTYPES: list[Dtype] = ["float32", "bfloat16", "int8", "int4"]
IN_CACHE, BEYOND_CACHE = 1 << 30, 0
"""Weights beyond the cache are packed tighter by the set that multiplies bf16."""
PACKED: list[tuple[Dtype, int]] = [
    *((dtype, IN_CACHE) for dtype in DTYPES), ("bfloat16", BEYOND_CACHE),
]  # fmt: skip
CASES = [
    pytest.param(
        name,
        dtype,
        kernel_set,
        cache_bytes,
        marks=[] if number == 0 or (row + number) % len(DTYPES) == column else [pytest.mark.slow],
    )
    for row, name in enumerate(SPECS)
    for column, (dtype, cache_bytes) in enumerate(PACKED)
    for number, kernel_set in enumerate(kernel_sets())
    if cache_bytes == IN_CACHE or kernel_set == "avx512bf16"
]
"""The fast tests run the best set in every format, each other set in one format of each spec."""


def build(name: str, dtype: Dtype) -> tuple[DecoderSpec, Weights]:
    weights = make_weights(SPECS[name])
    return SPECS[name], bf16_weights(weights) if dtype == "bfloat16" else weights


@pytest.mark.parametrize(("name", "dtype", "kernel_set", "cache_bytes"), CASES)
def test_logits_do_not_depend_on_company_chunks_or_threads(
    name: str, dtype: Dtype, kernel_set: str, cache_bytes: int
) -> None:
    spec, weights = build(name, dtype)
    settings: dict[str, Any] = {
        "dtype": dtype, "kernel_set": kernel_set, "cache_bytes": cache_bytes,
    }  # fmt: skip
    one, two = (make_model(spec, weights, num_threads=n, **settings) for n in (1, 2))
    prompts = [random_tokens(spec, 5 + 13 * i, seed=i) for i in range(7)]
    alone = [logits_of(one, prompt) for prompt in prompts]
    for seed, (model, biggest) in enumerate([(one, 1), (one, 40), (two, 9), (two, 200)]):
        for found, wanted in zip(
            run_random_chunks(model, prompts, seed, biggest), alone, strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("dtype", "cache_bytes"), PACKED)
@pytest.mark.parametrize("batch", [2, 3, 5, 6, 7, 8, 9, 12, 13, 16, 31, 64])
def test_a_decode_row_is_the_same_alone_and_in_a_batch(
    batch: int, dtype: Dtype, cache_bytes: int
) -> None:
    spec, weights = build("llama", dtype)
    model = make_model(
        spec, weights, dtype=dtype, num_blocks=400, num_threads=2, cache_bytes=cache_bytes
    )
    prompts = [random_tokens(spec, 17 + 3 * (i % 5), seed=i) for i in range(batch)]
    alone = [logits_of(model, p)[-1] for p in prompts]
    driver = Driver(model)
    driver.step([(i, p[:-1]) for i, p in enumerate(prompts)])
    order = np.random.default_rng(batch).permutation(batch).tolist()
    found = driver.step([(i, prompts[i][-1:]) for i in order])
    for row, i in enumerate(order):
        np.testing.assert_array_equal(found[row], alone[i])


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_prompts_are_the_same_whole_and_in_chunks(dtype: Dtype) -> None:
    spec, weights = build("llama_tied_biases", dtype)
    model = make_model(spec, weights, dtype=dtype, num_threads=2)
    tokens = random_tokens(spec, 467)
    whole = logits_of(model, tokens)
    for chunk in (1, 100, 128):
        np.testing.assert_array_equal(logits_of(model, tokens, chunk), whole)


@pytest.mark.parametrize("name", ["llama", "lfm2", "mixed_convs"])
def test_a_shared_prefix_gives_the_same_logits_as_computing_it(name: str) -> None:
    spec, weights = build(name, "bfloat16")
    model = make_model(spec, weights, dtype="bfloat16")
    prefix, rest = random_tokens(spec, 48), random_tokens(spec, 20, seed=2)
    cold = logits_of(model, prefix + rest)[48:]
    driver = Driver(model)
    driver.step([(0, prefix)])
    driver.tables[1], driver.lengths[1] = list(driver.tables[0]), 48
    np.testing.assert_array_equal(driver.step([(1, rest)]), cold)


@pytest.mark.parametrize("name", ["llama", "lfm2", "mixed_convs"])
def test_a_copied_block_continues_like_the_original(name: str) -> None:
    spec, weights = build(name, "bfloat16")
    model = make_model(spec, weights, dtype="bfloat16")
    prompt, rest = random_tokens(spec, 41), random_tokens(spec, 20, seed=2)
    driver = Driver(model)
    driver.step([(0, prompt)])
    last = driver.free.pop()
    model.copy_block(driver.tables[0][-1], last)
    driver.tables[1], driver.lengths[1] = [*driver.tables[0][:-1], last], 41
    np.testing.assert_array_equal(driver.step([(1, rest)]), driver.step([(0, rest)]))


@pytest.mark.parametrize("name", [name for name in SPECS if not SPECS[name].tied_head])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_block_held_before_leaves_no_trace(dtype: Dtype, name: str) -> None:
    """Even NaN keys and values of a finished sequence do not reach the next owner of its block."""
    spec, weights = build(name, dtype)
    embedding = weights[Role("embedding")].copy()
    embedding[7] = 0x7FC0 if dtype == "bfloat16" else np.nan  # token 7 poisons whoever sees it
    weights = weights | {Role("embedding"): embedding}
    model = make_model(spec, weights, dtype=dtype, num_blocks=4)
    tokens = [t for t in random_tokens(spec, 40) if t != 7][:37]
    wanted = logits_of(model, tokens)
    assert np.isfinite(wanted).all()
    assert np.isnan(logits_of(model, [7] * 64)).all()
    for chunk in (64, 1, 6):
        np.testing.assert_array_equal(logits_of(model, tokens, chunk), wanted)


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= set(kernel_sets()), reason="needs a machine with AVX-512"
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_avx512_gives_the_bits_of_avx2(name: str, dtype: Dtype) -> None:
    spec, weights = build(name, dtype)
    tokens = random_tokens(spec, 60)
    found, wanted = (
        logits_of(make_model(spec, weights, dtype=dtype, kernel_set=kernel_set), tokens)
        for kernel_set in ("avx512", "avx2")
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["int8", "int4", "bfloat16", "float32"])
@pytest.mark.parametrize("suits", [True, False])
def test_weights_are_packed_alike_by_any_number_of_threads(dtype: Dtype, suits: bool) -> None:
    """Queries end inside a panel; a row that integers cannot hold makes its matrix bf16."""
    spec = llama(attention(3, 1, 12))
    weights = make_weights(spec)
    if not suits:
        for name in ("k.weight", "down.weight"):
            array = weights[Role(name, 0)].copy()
            array[5, 7] = 1e7
            weights[Role(name, 0)] = array
    tokens = random_tokens(spec, 40)
    packed: list[Role] = []
    one = make_model(spec, weights, dtype=dtype, num_threads=1, on_packed=packed.append)
    assert sorted(map(str, packed)) == sorted(map(str, weights))
    several = make_model(spec, weights, dtype=dtype, num_threads=5)
    assert one.weight_bytes == several.weight_bytes
    np.testing.assert_array_equal(logits_of(one, tokens), logits_of(several, tokens))
