"""stop_on_loop: an output that repeats itself ends, and only then."""

import pytest

from shoal.engine.stopping import is_looping


@pytest.mark.parametrize(
    ("token_ids", "is_loop"),
    [
        ([7, 7, 7], True),
        ([7, 7], False),
        ([1, 7, 7, 7], True),
        ([1, 2, 1, 2, 1, 2], True),
        ([2, 1, 2, 1, 2, 1, 2], True),
        ([1, 2, 1, 2, 1, 3], False),
        ([1, 2, 1, 2], False),
        ([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4], True),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5], False),
        ([1, 1, 2, 1, 1, 2, 1, 1, 2], True),
    ],
)
def test_three_times_the_same_block_of_at_most_four(token_ids: list[int], is_loop: bool) -> None:
    assert is_looping(token_ids, min_repeats=3, max_period=4) is is_loop
