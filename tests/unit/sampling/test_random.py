"""Random numbers are a pure function of seed and position, and look random."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shoal.sampling.random import uniforms


def numbers(seeds: Sequence[int], positions: Sequence[int]) -> NDArray[np.float64]:
    return uniforms(np.array(seeds, np.uint64), np.array(positions, np.uint64))


def test_the_same_seed_and_position_give_the_same_number_in_any_batch() -> None:
    many = numbers(range(50), range(50))
    assert all(numbers([index], [index])[0] == many[index] for index in range(50))


def test_numbers_are_those_of_the_formula_in_whole_numbers() -> None:
    # A stored seed must give the same text after an update: the formula is part of the promise.
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mixed(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    for seed, position in [(0, 0), (1, 7), (mask, 1 << 40), (12345678901234567890, 511)]:
        wanted = mixed(mixed(seed + golden & mask) + position * golden & mask) >> 11
        assert numbers([seed], [position])[0] == wanted / (1 << 53)


def test_all_are_at_least_zero_and_below_one() -> None:
    found = numbers([12345] * 100_000, range(100_000))
    assert found.min() >= 0.0
    assert found.max() < 1.0


def test_positions_and_neighbouring_seeds_are_evenly_spread_and_not_correlated() -> None:
    for found in (
        numbers([9] * 20_000, range(20_000)),
        numbers(range(20_000), [9] * 20_000),
        numbers([seed << 32 for seed in range(20_000)], [0] * 20_000),
    ):
        hits = np.bincount((found * 100).astype(int), minlength=100)
        assert ((hits - 200) ** 2 / 200).sum() < 99 + 5 * np.sqrt(2 * 99)
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.04
