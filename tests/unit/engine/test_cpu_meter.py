"""Steps share out the CPU time of the process, and none of its rest."""

import pytest

from shoal.engine.core import EngineCore
from shoal.protocol.messages import EngineConfig, Submit
from shoal.protocol.params import SamplingParams, StopParams
from shoal.protocol.step import LoadedRunner, StepPlan, StepResult
from tests.fakes.fake_runner import FakeRunner, loaded_model


class Working:
    """A runner that uses CPU time: 1 s and 2 s a token."""

    def __init__(self, fails_at: int = 0) -> None:
        self.cpu_s = 100.0
        self.num_steps = 0
        self._runner = FakeRunner()
        self._fails_at = fails_at

    def run(self, plan: StepPlan) -> StepResult:
        self.num_steps += 1
        self.cpu_s += 1.0 + 2.0 * plan.num_tokens
        if self.num_steps == self._fails_at:
            raise RuntimeError("this step fails")
        return self._runner.run(plan)


def make_core(runner: Working) -> EngineCore:
    model = LoadedRunner(runner, loaded_model("m"), num_blocks=64)
    return EngineCore(
        {"m": model}, EngineConfig((), block_size=4), lambda: 0.0, lambda: runner.cpu_s
    )


def submit(seq_id: int, num_prompt: int, max_tokens: int) -> Submit:
    prompt = [seq_id] * num_prompt
    return Submit(seq_id, "m", prompt, SamplingParams(0), StopParams(max_tokens))


def run(core: EngineCore) -> tuple[dict[int, float], float]:
    """(CPU time of each sequence at its end, of all steps)."""
    ends: dict[int, float] = {}
    total = 0.0
    while (outputs := core.step()) is not None:
        total += outputs.cpu_s
        assert outputs.seq_cpu_s.keys() == {*outputs.seq_ids, *outputs.finished}
        ends |= {seq_id: outputs.seq_cpu_s[seq_id] for seq_id in outputs.finished}
    return ends, total


def test_a_step_is_shared_out_by_tokens() -> None:
    runner = Working()
    core = make_core(runner)
    core.add(submit(1, 30, 1))
    core.add(submit(2, 10, 1))
    ends, total = run(core)
    assert total == pytest.approx(1 + 2 * 40)
    assert ends == pytest.approx({1: total * 30 / 40, 2: total * 10 / 40})


def test_all_sequences_together_took_what_the_process_used() -> None:
    runner = Working()
    core = make_core(runner)
    for seq_id in range(1, 9):
        core.add(submit(seq_id, 7 * seq_id, seq_id % 4))  # some want no token
    ends, total = run(core)
    assert sorted(ends) == list(range(1, 9))
    assert total == pytest.approx(runner.cpu_s - 100)
    assert sum(ends.values()) == pytest.approx(total)


def test_idle_time_belongs_to_no_step() -> None:
    runner = Working()
    core = make_core(runner)
    core.add(submit(1, 5, 2))
    first, _ = run(core)
    runner.cpu_s += 1000  # heartbeats
    core.add(submit(2, 5, 2))
    second, _ = run(core)
    assert second[2] == pytest.approx(first[1])


def test_a_failed_step_is_counted_and_charged_to_nobody() -> None:
    runner = Working(fails_at=2)
    core = make_core(runner)
    core.add(submit(1, 5, 9))
    ends, total = run(core)
    assert total == pytest.approx(runner.cpu_s - 100)
    assert ends[1] == pytest.approx(11)  # of its first step
