"""Readers of bytes that others make: any input gives a result or the error that is promised."""

import time

import pytest

from shoal.errors import ShoalError
from tests.faults.fuzzing import TARGETS, Target, inputs
from tests.faults.measured import Measured

SECONDS = 60.0 / len(TARGETS)
SLOWEST_S = 2.0


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_changed_input_gives_a_result_or_the_promised_error(
    target: Target, long: bool, measured: Measured
) -> None:
    seed = time.time_ns() % 1_000_000 if long else 1
    number, slowest = 0, 0.0
    for data in inputs(TARGETS[target], seed, count=0 if long else 200, seconds=SECONDS * long):
        begun = time.process_time()
        try:
            target(data)
        except ShoalError:
            pass
        except BaseException as error:  # a panic of a library is no Exception
            raise AssertionError(f"seed {seed}, input {number}: {data[:2000]!r}") from error
        number, slowest = number + 1, max(slowest, time.process_time() - begun)
    measured(
        f"{number:,} changed inputs of {target.__name__} (seed {seed})",
        promised=f"a result or the promised error, each in {SLOWEST_S:g} s",
        measured=f"slowest {slowest * 1000:.1f} ms",
    )
    assert slowest < SLOWEST_S
