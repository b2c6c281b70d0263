"""Which experts a token meets, and that what it computes there is its own, in any format."""

import numpy as np
import pytest

from shoal.kernels.native import Dtype, available, kernel_sets
from shoal.model.spec import DecoderSpec, ExpertsSpec, Role
from tests.kernels.building import (
    Weights,
    bf16_weights,
    error,
    make_model,
    make_weights,
    moe,
    random_tokens,
)
from tests.kernels.driving import logits_of, run_random_chunks

pytest.importorskip("torch")
from tests.kernels.reference import Reference

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

SPARSE = moe(
    ExpertsSpec(12, 2, normalized=False, shared_intermediate_size=70, shared_gate=True),
    ExpertsSpec(33, 5, normalized=True),
)


def stored(weights: Weights, dtype: Dtype) -> Weights:
    return bf16_weights(weights) if dtype == "bfloat16" else weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
def test_a_row_has_the_same_bits_in_any_company(kernel_set: str, dtype: Dtype) -> None:
    weights = stored(make_weights(SPARSE), dtype)
    one, two, many = (  # many: some come late to a stage
        make_model(SPARSE, weights, dtype=dtype, kernel_set=kernel_set, num_threads=threads)
        for threads in (1, 2, 7)
    )
    # Long enough that an expert has several blocks of rows, and short ones beside them.
    prompts = [random_tokens(SPARSE, count, seed=count) for count in (500, 3, 61, 1, 200)]
    alone = [logits_of(one, prompt) for prompt in prompts]
    for model, biggest in ((one, 30), (two, 1), (two, 9), (two, 500), (many, 3), (many, 90)):
        chunked = run_random_chunks(model, prompts, biggest, biggest)
        for found, wanted in zip(chunked, alone, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
def test_nearly_all_tokens_meet_the_same_experts_in_every_format(
    kernel_set: str, dtype: Dtype
) -> None:
    """Where they do, logits are as near as those of a network without experts."""
    spec = moe(ExpertsSpec(6, 2, normalized=True), ExpertsSpec(8, 3, normalized=False))
    weights = stored(make_weights(spec), dtype)
    tokens = random_tokens(spec, 75)
    found = logits_of(make_model(spec, weights, dtype=dtype, kernel_set=kernel_set), tokens)
    wanted = Reference(spec, weights).forward(tokens)
    worst = np.sort(np.abs(found - wanted).max(-1) / wanted.std())
    assert worst[int(0.9 * len(worst))] < {"bfloat16": 0.1, "int8": 0.4}[dtype]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995


KEEP_INTEGERS = [x for x in kernel_sets() if x not in ("portable", "avx512bf16")]
"""Of bfloat16 weights, where they suit."""


@pytest.mark.parametrize("kernel_set", KEEP_INTEGERS)
def test_an_expert_whose_weights_are_kept_otherwise_reads_rows_of_its_own_kind(
    kernel_set: str,
) -> None:
    weights = make_weights(SPARSE)
    settings = {"dtype": "bfloat16", "kernel_set": kernel_set, "cache_bytes": 0}
    plain = make_model(SPARSE, bf16_weights(weights), **settings)
    for matrix in ("up", "down"):  # rows that no common scale holds
        weights[Role(f"experts.4.{matrix}.weight", 0)][3, 5] = 300.0
        weights[Role(f"experts.4.{matrix}.weight", 0)][3, 6] = 1e-30
    weights = bf16_weights(weights)
    one, two = (make_model(SPARSE, weights, num_threads=threads, **settings) for threads in (1, 2))
    assert one.weight_bytes != plain.weight_bytes
    prompts = [random_tokens(SPARSE, count, seed=count) for count in (130, 5, 40)]
    alone = [logits_of(one, prompt) for prompt in prompts]
    exact = make_model(SPARSE, weights, dtype="bfloat16", kernel_set="portable")
    differences = np.abs(alone[0] - logits_of(exact, prompts[0])).max(-1)
    assert np.quantile(differences, 0.9) < 0.05
    for found, wanted in zip(run_random_chunks(two, prompts, 2, 40), alone, strict=True):
        np.testing.assert_array_equal(found, wanted)


def with_equal_logits(spec: DecoderSpec) -> Weights:
    """Every expert's logit is zero."""
    weights = make_weights(spec)
    for role, weight in weights.items():
        if role.name == "router.weight":
            weight[:] = 0
    return weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_of_equal_experts_the_lower_ones_are_picked_and_no_other_counts(
    dtype: Dtype, num_threads: int
) -> None:
    spec = moe(ExpertsSpec(6, 2, normalized=True), ExpertsSpec(8, 3, normalized=False))
    weights, tokens = with_equal_logits(spec), random_tokens(spec, 60)
    settings = {"dtype": dtype, "num_threads": num_threads}
    before = logits_of(make_model(spec, stored(weights, dtype), **settings), tokens)
    if dtype == "float32":
        assert error(before, Reference(spec, weights).forward(tokens)) < 2e-5
    for layer, picked in ((0, 2), (2, 3)):
        for role in weights:
            if role.layer == layer and role.name.startswith("experts."):
                index = int(role.name.split(".")[1])
                weights[role] = weights[role] if index < picked else weights[role] * np.nan
    found = logits_of(make_model(spec, stored(weights, dtype), **settings), tokens)
    np.testing.assert_array_equal(found, before)


def test_a_token_that_is_no_number_disturbs_no_other() -> None:
    weights, tokens = make_weights(SPARSE), random_tokens(SPARSE, 40)
    before = logits_of(make_model(SPARSE, weights), tokens)
    weights[Role("embedding")][tokens[20]] = np.nan
    found = logits_of(make_model(SPARSE, weights), tokens)
    assert tokens.index(tokens[20]) == 20
    np.testing.assert_array_equal(found[:20], before[:20])
    assert np.isnan(found[20]).all()


@pytest.mark.parametrize(
    "experts",
    [
        ExpertsSpec(4, 5, normalized=True),
        ExpertsSpec(4, 0, normalized=True),
        ExpertsSpec(4, 2, normalized=True, shared_gate=True),
    ],
)
def test_experts_that_do_not_add_up_are_refused(experts: ExpertsSpec) -> None:
    spec = moe(experts, ExpertsSpec(3, 1, normalized=True))
    with pytest.raises(ValueError, match=r"needs 1\.\.num_experts experts"):
        make_model(spec, make_weights(spec))
