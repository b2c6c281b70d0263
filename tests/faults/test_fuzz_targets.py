"""Every target on mutated examples: a result or an error of ours, in time."""

import random
import time

import pytest

from tests.faults.fuzz_targets import TARGETS, fault_of, mutated
from tests.faults.measured import Measured

SECONDS = 12.0
"""Of each target; one minute for the five together."""
MAX_SECONDS = 2.0
"""Of one input, of computing."""


@pytest.mark.parametrize("name", TARGETS)
def test_examples_and_some_mutations(name: str) -> None:
    target, rng = TARGETS[name], random.Random(7)
    for seed in target.seeds():
        assert fault_of(target, seed) is None, seed
        for _ in range(25):
            data = mutated(seed, rng)
            assert fault_of(target, data) is None, data


@pytest.mark.faults
@pytest.mark.parametrize("name", TARGETS)
def test_mutations_for_a_while(name: str, measured: Measured) -> None:
    target, seed = TARGETS[name], time.time_ns()
    rng, seeds = random.Random(seed), target.seeds()
    num_inputs, slowest, end = 0, 0.0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = mutated(rng.choice(seeds), rng)
        began = time.process_time()
        assert fault_of(target, data) is None, (seed, data)
        slowest = max(slowest, time.process_time() - began)
        num_inputs += 1
    measured(
        f"fuzzing: {name}",
        promised=f"no fault, ≤ {MAX_SECONDS:g} s each",
        measured=f"{num_inputs} inputs, slowest {slowest * 1000:.0f} ms",
    )
    assert slowest < MAX_SECONDS
