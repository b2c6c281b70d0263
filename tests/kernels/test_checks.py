"""Draws behind a refused one, in the same call: what further calls would give."""

from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import available
from shoal.kernels.sampling import (
    Checks,
    NativeSampler,
    PlainTokens,
    RowArrays,
    RowParams,
    VocabularyMasks,
)

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

NUM_OTHERS = 2


def make_params(num_rows: int, **changes: Any) -> RowParams:
    wanted = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        **changes,
    }
    types = {"temperature": np.float32, "top_k": np.int32}
    return RowParams(
        **{name: np.full(num_rows, x, types.get(name, np.float64)) for name, x in wanted.items()},
        seed=np.arange(num_rows, dtype=np.uint64) * np.uint64(7919),
        position=np.arange(num_rows, dtype=np.uint64),
    )


def bits(allowed: np.ndarray) -> np.ndarray:
    """[rows, ids] as words."""
    padded = np.pad(allowed, ((0, 0), (0, -allowed.shape[1] % 32)))
    return np.ascontiguousarray(np.packbits(padded, axis=1, bitorder="little")).view(np.uint32)


def one(sampler: NativeSampler, logits: np.ndarray, params: RowParams, row: int, seed: int,
        allowed: np.ndarray) -> int:  # fmt: skip
    """A draw of its own."""
    own = params.of_rows(np.array([row]))
    own.seed[:] = seed
    masks = VocabularyMasks(bits(allowed[None]), np.zeros(1, np.int32))
    return int(sampler.sample(logits[row : row + 1], RowArrays(own, masks))[0])


@pytest.mark.parametrize("num_ids", [63, 70, 4096])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.3}, {"temperature": 0.0}, {"top_k": 9},
                                     {"top_p": 0.8}])  # fmt: skip
@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_they_are_those_of_further_calls(
    num_ids: int, changes: dict[str, Any], spread: float
) -> None:
    num_rows, rng = 120, np.random.default_rng(num_ids)
    logits = rng.normal(0, spread, (num_rows, num_ids)).astype(np.float32)
    logits[:, 5] += 4 * spread  # often drawn first
    plain = (rng.random((2, num_ids)) < 0.5).astype(np.uint8)
    plain[:, 5] = 0
    allowed = (rng.random((num_rows, num_ids)) < 0.3) | (plain[np.arange(num_rows) % 2] > 0)
    allowed[:, 5] = False
    params = make_params(num_rows, **changes)
    seeds = rng.integers(0, 1 << 63, (num_rows, 1 + NUM_OTHERS)).astype(np.uint64)
    is_known, has_others = rng.random(num_rows) < 0.6, rng.random(num_rows) < 0.6
    of_row = np.where(is_known, np.arange(num_rows), -1).astype(np.int32)
    tables = np.where(has_others, np.arange(num_rows) % 2, -1).astype(np.int32)
    others = np.full((num_rows, NUM_OTHERS), -9, np.int32)
    sampler = NativeSampler(num_ids)
    checks = Checks(
        VocabularyMasks(bits(allowed), of_row), PlainTokens(plain, tables, others), seeds
    )
    tokens = sampler.sample(logits, RowArrays(params, checks=checks))
    first = sampler.sample(logits, RowArrays(params))
    known_first = np.where(rng.random(num_rows) < 0.5, first, -1).astype(np.int32)
    others_before = others.copy()
    given = sampler.sample(logits, RowArrays(params, checks=checks), first=known_first)
    np.testing.assert_array_equal(given, tokens)
    np.testing.assert_array_equal(others, others_before)
    num_again = 0
    for row in range(num_rows):
        wanted, refused = int(first[row]), [int(first[row])]
        is_plain = plain[row % 2] > 0

        def is_done(token_id: int, row: int = row) -> bool:
            return bool(is_known[row] and allowed[row, token_id])

        if has_others[row] and not is_plain[wanted] and not is_done(wanted):
            for index in range(NUM_OTHERS):
                left = np.ones(num_ids, bool)
                left[refused] = False
                other = one(sampler, logits, params, row, int(seeds[row, index]), left)
                assert others[row, index] == other
                if is_plain[other] or is_done(other):
                    break
                refused.append(other)
            if is_known[row]:
                wanted = other
        if is_known[row] and not allowed[row, wanted]:
            seed = int(seeds[row, NUM_OTHERS if has_others[row] else 0])
            wanted = one(sampler, logits, params, row, seed, allowed[row])
        num_again += wanted != first[row]
        assert tokens[row] == wanted, row
    assert num_again > 10


def test_where_nothing_is_left_there_is_no_token() -> None:
    logits = np.full((2, 40), -np.inf, np.float32)
    logits[:, 3] = 1.0
    others = np.full((2, NUM_OTHERS), -9, np.int32)
    allowed = np.zeros((1, 40), bool)
    checks = Checks(
        VocabularyMasks(bits(allowed), np.array([0, -1], np.int32)),
        PlainTokens(np.zeros((1, 40), np.uint8), np.array([-1, 0], np.int32), others),
        np.ones((2, 1 + NUM_OTHERS), np.uint64),
    )
    tokens = NativeSampler(40).sample(logits, RowArrays(make_params(2), checks=checks))
    assert tokens.tolist() == [-1, 3]
    assert others[1].tolist() == [-1, -1]


@pytest.mark.parametrize("first", [[0], [0, 40], [0, 1, 2]])
def test_first_draws_that_are_no_tokens_are_refused(first: list[int]) -> None:
    logits = np.zeros((2, 40), np.float32)
    with pytest.raises(ValueError, match="first draw"):
        NativeSampler(40).sample(logits, RowArrays(make_params(2)), first=np.array(first, np.int32))


@pytest.mark.parametrize("wrong", ["seeds", "tables", "others", "table", "ids"])
def test_wrong_shapes_are_refused(wrong: str) -> None:
    tables = np.array([1 if wrong == "table" else 0, -1], np.int32)
    plain = PlainTokens(
        np.zeros((1, 30 if wrong == "ids" else 40), np.uint8),
        tables[:1] if wrong == "tables" else tables,
        np.zeros((1 if wrong == "others" else 2, NUM_OTHERS), np.int32),
    )
    seeds = np.ones((2, NUM_OTHERS if wrong == "seeds" else 1 + NUM_OTHERS), np.uint64)
    masks = VocabularyMasks(np.zeros((1, 2), np.uint32), np.array([0, -1], np.int32))
    with pytest.raises(ValueError):
        NativeSampler(40).sample(
            np.zeros((2, 40), np.float32),
            RowArrays(make_params(2), checks=Checks(masks, plain, seeds)),
        )
