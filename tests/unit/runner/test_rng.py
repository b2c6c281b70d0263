"""Random numbers are a pure function of seed and position, and look random."""

import numpy as np

from shoal.runner.rng import uniforms


def numbers(seeds: range | list[int], positions: range | list[int]) -> np.ndarray:  # type: ignore[type-arg]
    return uniforms(np.array(seeds, np.uint64), np.array(positions, np.uint64))


def test_the_same_seed_and_position_give_the_same_number_in_any_batch() -> None:
    many = numbers(range(50), range(50))
    assert all(numbers([index], [index])[0] == many[index] for index in range(50))


def test_numbers_do_not_change_between_versions() -> None:
    # A stored seed must give the same text after an update: these are part of the promise.
    assert numbers([0, 1, (1 << 64) - 1], [0, 7, (1 << 40)]).tolist() == [
        0.21211370590780586,
        0.0,
        0.0,
    ]


def test_all_are_at_least_zero_and_below_one() -> None:
    found = numbers([12345] * 100_000, range(100_000))
    assert 0.0 <= found.min()
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
