"""A plan that continues the last one is a short cut: every plan, answer and charge is the same as
when each step is planned anew. The fake runner checks that a plan only says so when it is true.
"""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine import scheduler as scheduler_module
from shoal.engine.sequence import Sequence
from shoal.protocol.messages import Submit
from shoal.protocol.step import StepPlan
from tests.fakes.fake_runner import FakeRunner
from tests.unit.engine.building import Engine, make_submit

Trace = list[Any]


def trace_of(
    arrivals: list[tuple[int, Submit]],
    aborts: dict[int, int],
    failing_steps: frozenset[int] = frozenset(),
    *,
    may_continue: bool,
    **config: Any,
) -> tuple[Trace, int]:
    """All that a run plans, says and charges, and how many plans continue the one before.
    `arrivals`: (before which step, what); `aborts`: step -> sequence."""
    found: Trace = []
    num_continued = num_planned = 0

    def make_runner(num_blocks: int, block_size: int) -> FakeRunner:
        return FakeRunner(num_blocks, block_size, before_step=record, row_error=row_error)

    def record(plan: StepPlan) -> None:
        nonlocal num_continued, num_planned
        fields = asdict(plan)
        num_continued += fields.pop("continues")
        found.append(fields)
        num_planned += 1
        if num_planned in failing_steps:
            raise RuntimeError("the whole step fails")

    def row_error(seq_id: int, token_ids: list[int]) -> str | None:
        return "numerical_error" if seq_id % 7 == 3 and len(token_ids) == 14 else None

    with pytest.MonkeyPatch.context() as patch:
        if not may_continue:
            patch.setattr(scheduler_module, "is_decoding", _never)
        engine = Engine(runner=make_runner, max_preemptions=1000, **config)
        scheduler = engine.core._models["fake"].scheduler
        for step in range(2000):
            for _, submit in (pair for pair in arrivals if pair[0] == step):
                engine.add(submit)
            if step in aborts:
                engine.core.abort([aborts[step]])
            outputs = engine.step()
            if outputs is not None:
                found.append((outputs.seq_ids, outputs.token_ids, outputs.started))
                found.append((outputs.finished, outputs.stats.num_used_blocks))
            tenants = {submit.tenant for _, submit in arrivals}
            found.append({name: scheduler._waiting.shares.served(name) for name in tenants})
            if not engine.core.has_work and step > max(at for at, _ in arrivals):
                return found, num_continued
    raise AssertionError("the engine does not come to an end")


def _never(seq: Sequence) -> bool:
    return False


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_continuing_changes_no_plan_no_answer_and_no_charge(data: Any) -> None:
    numbers = data.draw(
        st.lists(
            st.tuples(st.integers(0, 30), st.integers(1, 20), st.integers(0, 40)),
            min_size=1,
            max_size=9,
        ),
        "arrival, prompt and output length",
    )
    arrivals = [
        (step, make_submit(index, range(index, index + length), max_tokens,
                           stop_token_ids=(index,), tenant="ab"[index % 2]))
        for index, (step, length, max_tokens) in enumerate(numbers)
    ]  # fmt: skip
    aborts = data.draw(st.dictionaries(st.integers(0, 40), st.integers(0, 8), max_size=3), "aborts")
    failing_steps = data.draw(st.frozensets(st.integers(1, 60), max_size=2), "failing steps")
    config = {
        "num_blocks": data.draw(st.sampled_from([17, 24, 64]), "blocks"),
        "max_batch_size": data.draw(st.sampled_from([1, 3, 16]), "rows"),
        "token_budget": data.draw(st.sampled_from([4, 16, 64]), "budget"),
        "prefix_cache": data.draw(st.booleans(), "prefix cache"),
        "max_model_len": 64,
    }
    continued, _ = trace_of(arrivals, aborts, failing_steps, may_continue=True, **config)
    anew, num_continued = trace_of(arrivals, aborts, failing_steps, may_continue=False, **config)
    assert num_continued == 0
    assert continued == anew


def test_a_batch_that_only_decodes_continues_from_its_first_decode_on() -> None:
    arrivals = [(0, make_submit(index, [index] * 5, 40)) for index in range(3)]
    _, num_continued = trace_of(arrivals, {}, may_continue=True, num_blocks=64)
    assert num_continued == 38  # of 40 steps, not the prefill and the first decode


def test_an_arrival_that_finds_no_row_does_not_end_continuing() -> None:
    arrivals = [(index, make_submit(index, [index] * 5, 40)) for index in range(3)]
    _, num_continued = trace_of(arrivals, {}, may_continue=True, num_blocks=64, max_batch_size=1)
    assert num_continued == 3 * 38


def test_an_abort_a_failed_step_and_a_block_that_is_not_there_each_end_continuing_once() -> None:
    arrivals = [(0, make_submit(index, [index] * 5, 40)) for index in range(3)]
    _, undisturbed = trace_of(arrivals, {}, may_continue=True, num_blocks=64)
    _, aborted = trace_of(arrivals, {20: 1}, may_continue=True, num_blocks=64)
    assert aborted == undisturbed - 1
    _, failed = trace_of(arrivals, {}, frozenset({20}), may_continue=True, num_blocks=64)
    assert failed == 18  # no sequence is left
    _, preempted = trace_of(arrivals, {}, may_continue=True, num_blocks=14)
    assert preempted > 0
