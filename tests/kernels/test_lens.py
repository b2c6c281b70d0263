"""The logit lens: after each layer the head finds what the network cut behind that layer finds."""

from dataclasses import replace

import numpy as np
import pytest

from shoal.kernels.native import Dtype, HeadResult, NativeModel, available, kernel_sets
from shoal.model.spec import DecoderSpec, ExpertsSpec, expected_weights
from tests.kernels.building import (
    SPECS,
    Weights,
    bf16_weights,
    llama,
    make_model,
    make_weights,
    moe,
    random_tokens,
)
from tests.kernels.driving import Driver, run_random_chunks
from tests.kernels.random_specs import random_spec

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")


def cut(spec: DecoderSpec, num_layers: int) -> DecoderSpec:
    """The network without its last layers, which keeps its head."""
    return replace(spec, layers=spec.layers[:num_layers])


def weights_of(spec: DecoderSpec, weights: Weights) -> Weights:
    return {role: weights[role] for role in expected_weights(spec)}


def lens_of(
    model: NativeModel, prompts: list[list[int]], lens: list[int], logits: int = 0
) -> HeadResult:
    """One step over whole prompts; `lens`: which of its tokens."""
    arrays = Driver(model).arrays(list(enumerate(prompts)))
    return model.forward_head(
        *arrays,
        num_logits=logits,
        top=1,
        log_sum_exp=True,
        lens_indices=np.array(lens, np.int32),
    )


def check_lens(
    spec: DecoderSpec, weights: Weights, *, tolerance: float | None = None, **settings: object
) -> None:
    """With `tolerance` against the float64 networks, else the bits of the cut native ones."""
    prompt = random_tokens(spec, 40)
    lens = [39, 7, 21]
    model = make_model(spec, weights, **settings)
    found = lens_of(model, [prompt], lens, logits=40)
    np.testing.assert_array_equal(
        found.logits, make_model(spec, weights, **settings).forward(*model_arrays(model, prompt))
    )
    for index in range(len(spec.layers)):
        part = cut(spec, index + 1)
        if tolerance is None:
            shorter = make_model(part, weights_of(part, weights), **settings)
            logits = shorter.forward(*model_arrays(shorter, prompt))[lens]
        else:
            from tests.kernels.reference import Reference

            logits = Reference(part, weights_of(part, weights)).forward(prompt)[lens]
        rows = slice(40 + 3 * index, 43 + 3 * index)
        ids, best = found.top_ids[rows, 0], found.top_logits[rows, 0]
        known = logits[:, : settings.get("num_token_ids")]
        wide = logits.astype(np.float64)
        log_sums = wide.max(1) + np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1))
        found_sums = found.log_sum_exp[3 * index : 3 * index + 3]
        if tolerance is None:
            np.testing.assert_array_equal(ids, known.argmax(1))
            np.testing.assert_array_equal(best, known.max(1))
            np.testing.assert_allclose(found_sums, log_sums, rtol=1e-5)
        else:
            limit = tolerance * wide.std()
            np.testing.assert_allclose(best, known.max(1), atol=limit)
            np.testing.assert_allclose(known[np.arange(3), ids], known.max(1), atol=limit)
            np.testing.assert_allclose(found_sums, log_sums, atol=limit)


def model_arrays(model: NativeModel, prompt: list[int]) -> tuple[np.ndarray, ...]:
    return Driver(model).arrays([(0, prompt)])


@pytest.mark.parametrize("name", SPECS)
def test_the_lens_is_the_head_of_the_float64_network_cut_there(name: str) -> None:
    pytest.importorskip("torch")
    check_lens(SPECS[name], make_weights(SPECS[name]), tolerance=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("seed", range(24))
def test_the_lens_sees_combined_features(seed: int, kernel_set: str) -> None:
    pytest.importorskip("torch")
    spec = random_spec(seed)
    check_lens(spec, make_weights(spec), tolerance=1e-4, kernel_set=kernel_set)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("name", ["gemma", "opt", "moe"])
def test_in_every_format_the_lens_has_the_bits_of_the_cut_network(name: str, dtype: Dtype) -> None:
    weights = make_weights(SPECS[name])
    given = bf16_weights(weights) if dtype == "bfloat16" else weights
    check_lens(SPECS[name], given, dtype=dtype, num_threads=2)


def test_the_lens_never_shows_padding_of_the_vocabulary() -> None:
    spec = SPECS["llama"]
    check_lens(spec, make_weights(spec), num_token_ids=700)


def test_a_step_may_look_at_more_rows_than_it_may_have_tokens() -> None:
    """Rows of all layers together are more than `max_tokens`, and the next step has no lens."""
    spec = llama(num_layers=6, embedding_size=37)
    weights = make_weights(spec)
    model, other = (make_model(spec, weights, max_tokens=24, num_threads=n) for n in (2, 1))
    prompt = random_tokens(spec, 24)
    everywhere = lens_of(model, [prompt], list(range(24)))
    for token in (0, 23):
        alone = lens_of(other, [prompt], [token])
        rows = 24 + np.arange(6) * 24 + token
        np.testing.assert_array_equal(everywhere.top_ids[rows], alone.top_ids[24:])
        np.testing.assert_array_equal(everywhere.top_logits[rows], alone.top_logits[24:])
        np.testing.assert_array_equal(everywhere.log_sum_exp[rows - 24], alone.log_sum_exp)
    arrays = model_arrays(model, prompt)
    np.testing.assert_array_equal(model.forward(*arrays), other.forward(*arrays))


def test_a_lens_changes_no_bit_of_any_row() -> None:
    """Also of rows in other chunks and company."""
    experts = ExpertsSpec(6, 2, normalized=True)
    spec = moe(experts, experts)
    weights = make_weights(spec)
    prompts = [random_tokens(spec, n, seed=n) for n in (40, 3, 17, 1)]
    wanted = run_random_chunks(make_model(spec, weights), prompts, seed=3, biggest=9)
    arrays = Driver(model := make_model(spec, weights, num_threads=2)).arrays(
        list(enumerate(prompts))
    )
    found = model.forward_head(
        *arrays, num_logits=61, top=1, lens_indices=np.array([60, 5], np.int32)
    )
    np.testing.assert_array_equal(found.logits, np.concatenate(wanted))


def test_a_token_outside_the_step_is_refused() -> None:
    model = make_model(SPECS["llama"], make_weights(SPECS["llama"]))
    with pytest.raises(ValueError, match="lens index"):
        lens_of(model, [[1, 2, 3]], [3])
