"""Planning a batch that only decodes is a short cut: every plan, answer and charge is the same
as on the long way.
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
    arrivals: list[tuple[int, Submit]], aborts: dict[int, int], *, is_short: bool, **config: Any
) -> tuple[Trace, int]:
    """All that a run plans, says and charges, and how many plans took the short cut.
    `arrivals`: (before which step, what); `aborts`: step -> sequence."""
    found: Trace = []

    def make_runner(num_blocks: int, block_size: int) -> FakeRunner:
        return FakeRunner(num_blocks, block_size, before_step=record, row_error=row_error)

    def record(plan: StepPlan) -> None:
        found.append(asdict(plan))

    def row_error(seq_id: int, token_ids: list[int]) -> str | None:
        return "numerical_error" if seq_id % 7 == 3 and len(token_ids) == 14 else None

    with pytest.MonkeyPatch.context() as patch:
        if not is_short:
            patch.setattr(scheduler_module, "is_steady", _never)
        engine = Engine(runner=make_runner, max_preemptions=1000, **config)
        scheduler = engine.core._models["fake"].scheduler
        num_short = 0
        for step in range(2000):
            for _, submit in (pair for pair in arrivals if pair[0] == step):
                engine.add(submit)
            if step in aborts:
                engine.core.abort([aborts[step]])
            num_short += scheduler._steady is not None
            outputs = engine.step()
            if outputs is not None:
                found.append((outputs.seq_ids, outputs.token_ids, outputs.started))
                found.append((outputs.finished, outputs.stats.num_used_blocks))
            tenants = {submit.tenant for _, submit in arrivals}
            found.append({name: scheduler._waiting.shares.served(name) for name in tenants})
            if not engine.core.has_work and step > max(at for at, _ in arrivals):
                return found, num_short
    raise AssertionError("the engine does not come to an end")


def _never(seq: Sequence) -> bool:
    return False


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_short_cut_changes_no_plan_no_answer_and_no_charge(data: Any) -> None:
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
    config = {
        "num_blocks": data.draw(st.sampled_from([17, 24, 64]), "blocks"),
        "max_batch_size": data.draw(st.sampled_from([1, 3, 16]), "rows"),
        "token_budget": data.draw(st.sampled_from([4, 16, 64]), "budget"),
        "prefix_cache": data.draw(st.booleans(), "prefix cache"),
        "max_model_len": 64,
    }
    short, _ = trace_of(arrivals, aborts, is_short=True, **config)
    long, num_short = trace_of(arrivals, aborts, is_short=False, **config)
    assert num_short == 0
    assert short == long


def test_a_batch_that_only_decodes_takes_the_short_cut() -> None:
    arrivals = [(0, make_submit(index, range(5), 40)) for index in range(4)]
    _, num_short = trace_of(arrivals, {}, is_short=True, num_blocks=64)
    assert num_short >= 30
