"""Tokens that a row cannot get: padding of the vocabulary, and what its mask leaves out.
Log-probabilities are normalised over all columns all the same."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.kernels.native import KernelSet, available, kernel_sets
from shoal.kernels.sampling import (
    Float32,
    NativeSampler,
    RowArrays,
    RowParams,
    VocabularyMasks,
)

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

SETS: list[Any] = list(kernel_sets())
SIZES = [(1, 1), (70, 1), (64, 64), (300, 259), (1000, 31), (1003, 1000), (4096, 3001)]
"""(columns of the logits, token ids)"""


def random_params(rng: np.random.Generator, num_rows: int) -> RowParams:
    def choice(*values: float) -> Any:
        return rng.choice(values, num_rows)

    return RowParams(
        temperature=choice(0, 0.3, 1, 1, 2).astype(np.float32),
        top_k=choice(0, 0, 1, 7, 500).astype(np.int32),
        top_p=choice(1, 1, 0.1, 0.9),
        min_p=choice(0, 0, 0.05),
        typical_p=choice(1, 1, 1, 0.7),
        seed=rng.integers(1 << 63, size=num_rows).astype(np.uint64),
        position=rng.integers(5000, size=num_rows).astype(np.uint64),
    )


def random_logits(rng: np.random.Generator, num_rows: int, columns: int) -> Float32:
    """Flat and peaked rows."""
    scale = rng.choice([0.1, 1, 4, 9], (num_rows, 1))
    return (rng.standard_normal((num_rows, columns)) * scale).astype(np.float32)


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Masks [n, tokens] as words, bit i % 32 of word i // 32 for token i."""
    padded = np.pad(allowed, ((0, 0), (0, -allowed.shape[1] % 32))).reshape(len(allowed), -1, 32)
    return (padded.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(2).astype(np.uint32)


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize(("columns", "num_ids"), SIZES)
def test_padding_is_sampled_as_if_it_were_not_there(
    kernel_set: KernelSet, columns: int, num_ids: int
) -> None:
    rng = np.random.default_rng([columns, num_ids])
    logits, params = random_logits(rng, 80, columns), random_params(rng, 80)
    logits[:, num_ids:] += 30  # it would be picked
    logits[::7, num_ids:] = rng.choice([np.nan, np.inf, -np.inf])
    padded = NativeSampler(columns, num_token_ids=num_ids, kernel_set=kernel_set)
    wanted = NativeSampler(num_ids, kernel_set=kernel_set).sample(
        np.ascontiguousarray(logits[:, :num_ids]), RowArrays(params)
    )
    found = padded.sample(logits, RowArrays(params))
    np.testing.assert_array_equal(found, wanted)
    assert (found >= 0).all()
    assert (found < num_ids).all()


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize(("columns", "num_ids"), SIZES)
@pytest.mark.parametrize("raised", [-20.0, 0.0, 60.0])
def test_log_probabilities_count_the_padding_and_never_name_it(
    kernel_set: KernelSet, columns: int, num_ids: int, raised: float
) -> None:
    rng = np.random.default_rng([columns, num_ids])
    logits = random_logits(rng, 40, columns)
    logits[:, num_ids:] += np.float32(raised)
    token_ids = rng.integers(0, columns, 40).astype(np.int32)
    k = min(20, num_ids)
    sampler = NativeSampler(columns, num_token_ids=num_ids, kernel_set=kernel_set)
    own, ids, best = sampler.logprobs(logits, token_ids, np.full(40, 20, np.int32))
    wanted = log_softmax(logits)
    np.testing.assert_allclose(own, wanted[np.arange(40), token_ids], rtol=1e-5, atol=1e-5)
    assert (ids < num_ids).all()
    np.testing.assert_allclose(
        best, -np.sort(-wanted[:, :num_ids], axis=1)[:, :k], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(np.take_along_axis(wanted, ids, 1), best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_that_is_not_finite_leaves_no_log_probabilities(
    kernel_set: KernelSet, bad: float
) -> None:
    logits = random_logits(np.random.default_rng(0), 3, 100)
    logits[1, 97] = bad
    sampler = NativeSampler(100, num_token_ids=90, kernel_set=kernel_set)
    own, ids, _ = sampler.logprobs(logits, np.zeros(3, np.int32), np.full(3, 2, np.int32))
    assert np.isfinite(own).tolist() == [True, False, True]
    assert (ids[1] == -1).all()


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize(("columns", "num_ids"), SIZES)
def test_a_masked_row_is_sampled_as_if_the_other_tokens_were_banned(
    kernel_set: KernelSet, columns: int, num_ids: int
) -> None:
    rng = np.random.default_rng([columns, num_ids, 1])
    logits, params = random_logits(rng, 90, columns), random_params(rng, 90)
    shares = rng.choice([0.0, 0.02, 0.5, 1.0], (12, 1))
    allowed = rng.random((12, num_ids)) < shares
    mask_of_row = rng.integers(-1, 12, 90).astype(np.int32)
    sampler = NativeSampler(columns, num_token_ids=num_ids, kernel_set=kernel_set)
    found = sampler.sample(logits, RowArrays(params, VocabularyMasks(packed(allowed), mask_of_row)))
    open_rows = np.where(mask_of_row[:, None] < 0, True, allowed[mask_of_row])
    banned = logits.copy()
    banned[:, :num_ids][~open_rows] = -np.inf
    np.testing.assert_array_equal(found, sampler.sample(banned, RowArrays(params)))
    without = mask_of_row < 0
    np.testing.assert_array_equal(
        found[without], sampler.sample(logits, RowArrays(params))[without]
    )
    picked = found >= 0
    assert open_rows[picked, found[picked]].all()
    np.testing.assert_array_equal(picked, open_rows.any(axis=1))


def test_of_chosen_rows_the_tokens_are_those_of_all_and_the_others_stay() -> None:
    rng = np.random.default_rng(8)
    logits, params = random_logits(rng, 40, 70), random_params(rng, 40)
    words = packed(rng.random((40, 70)) < 0.5)
    masks = VocabularyMasks(words, np.arange(40, dtype=np.int32))
    sampler = NativeSampler(70)
    whole = sampler.sample(logits, RowArrays(params, masks))
    rows = np.array([31, 0, 7], np.int32)
    tokens = np.full(40, -5, np.int32)
    assert sampler.sample(logits, RowArrays(params, masks), rows=rows, tokens=tokens) is tokens
    np.testing.assert_array_equal(tokens[rows], whole[rows])
    assert (np.delete(tokens, rows) == -5).all()
    for row in (-1, 40):
        with pytest.raises(ValueError, match="row is chosen"):
            sampler.sample(logits, RowArrays(params), rows=np.array([row], np.int32))


def test_masks_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    sampler, logits = NativeSampler(70), random_logits(rng, 2, 70)
    params, rows = random_params(rng, 2), np.zeros(2, np.int32)
    for words, mask_of_row in [
        (np.zeros((1, 2), np.uint32), rows),  # too few words
        (np.zeros((1, 3), np.uint32), rows[:1]),  # too few rows
        (np.zeros((1, 3), np.uint32), rows + 1),  # no such mask
    ]:
        with pytest.raises(ValueError, match="mask"):
            sampler.sample(logits, RowArrays(params, VocabularyMasks(words, mask_of_row)))


@pytest.mark.parametrize("num_ids", [0, 11])
def test_more_token_ids_than_columns_are_refused(num_ids: int) -> None:
    with pytest.raises(ValueError, match="num_token_ids"):
        NativeSampler(10, num_token_ids=num_ids)
