"""Drafts change when tokens come, never which: the fake runner's answers depend on every token,
position and block, and with a vocabulary of few tokens it often repeats itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine import drafts as drafts_module
from shoal.engine.drafts import MAX_ROWS, MAX_STEP_TOKENS
from shoal.metrics import Metrics
from shoal.protocol.messages import Submit
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import StepPlan
from shoal.protocol.trace import TokenTrace
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Engine, Heard, make_submit

PROMPT = [0, 1, 1, 0, 1]
FEW_IDS = 2


def make_engine(
    num_ids: int = FEW_IDS, plans: list[StepPlan] | None = None, **config: Any
) -> Engine:
    """Blocks of 16 tokens. `plans`: gets every plan."""

    def make_runner(num_blocks: int, block_size: int) -> FakeRunner:
        before_step = None if plans is None else plans.append
        return FakeRunner(num_blocks, block_size, num_ids, before_step=before_step)

    return Engine(runner=make_runner, **{"block_size": 16, **config})


class Periodic(FakeRunner):
    """Says the same tokens over and over."""

    def _say(self, result: Any, row: Any, position: int) -> int:
        self._digest(row, position)  # every slot was written
        row.token_ids.append(position % 5)
        return position % 5


@contextmanager
def without_pauses() -> Iterator[None]:
    """Drafts go on however often they are wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts_module, "_FIRST_PAUSE", 0)
        patch.setattr(drafts_module, "_LONGEST_PAUSE", 0)
        yield


def counts_of(heard: Heard) -> tuple[int, int]:
    """(drafted, accepted)."""
    return (
        sum(frame.num_drafted for frame in heard.frames),
        sum(frame.num_accepted for frame in heard.frames),
    )


def test_a_text_that_repeats_takes_fewer_steps_for_the_same_tokens() -> None:
    engine = make_engine()
    heard = engine.run(make_submit(1, PROMPT, 200))
    assert heard.tokens[1] == solo_output(PROMPT, 200, SamplingParams(0), FEW_IDS)
    drafted, accepted = counts_of(heard)
    assert 0 < accepted < drafted
    assert engine.runner.num_steps == 200 - accepted
    assert engine.runner.num_tokens == len(PROMPT) + 199 - accepted + drafted
    assert not engine.core._models["fake"].scheduler.drafts._histories


def test_metrics_count_what_was_guessed_and_what_held() -> None:
    heard = make_engine().run(make_submit(1, PROMPT, 200))
    metrics = Metrics()
    for frame in heard.frames:
        metrics.on_step(frame)
    drafted, accepted = counts_of(heard)
    lines = metrics.render().decode().splitlines()
    assert f'shoal_draft_tokens_total{{model="fake"}} {drafted}.0' in lines
    assert f'shoal_accepted_draft_tokens_total{{model="fake"}} {accepted}.0' in lines
    assert 'shoal_generation_tokens_total{model="fake"} 200.0' in lines


def test_without_drafts_each_token_takes_a_step() -> None:
    engine = make_engine(drafts=False)
    heard = engine.run(make_submit(1, PROMPT, 200))
    assert heard.tokens[1] == solo_output(PROMPT, 200, SamplingParams(0), FEW_IDS)
    assert counts_of(heard) == (0, 0)
    assert engine.runner.num_steps == 200


def test_steps_with_drafts_are_small_and_their_rows_few() -> None:
    plans: list[StepPlan] = []
    engine = make_engine(plans=plans)
    engine.run(*(make_submit(i, [i % 2] * 4, 30 + 40 * i) for i in range(6)))
    with_drafts = [plan for plan in plans if plan.drafts]
    assert {len(plan.seq_ids) for plan in with_drafts} == set(range(1, MAX_ROWS + 1))
    assert max(plan.num_tokens for plan in with_drafts) == MAX_STEP_TOKENS
    assert not any(plan.new_rows for plan in with_drafts)
    assert any(len(plan.seq_ids) > MAX_ROWS for plan in plans)


def test_nobody_gets_drafts_while_a_prompt_is_computed() -> None:
    plans: list[StepPlan] = []
    engine = make_engine(plans=plans, token_budget=4)
    engine.add(make_submit(1, PROMPT, 300))
    for _ in range(20):
        engine.step()
    assert any(plan.drafts for plan in plans)
    engine.add(make_submit(2, [1] * 60, 20))
    engine.run()
    of_prompts = [p for p in plans if any(n < 60 and s == 2 for s, n in starts_of(p))]
    assert len(of_prompts) == 20  # three tokens each beside the one of the other row
    assert not any(plan.drafts for plan in of_prompts)


def starts_of(plan: StepPlan) -> list[tuple[int, int]]:
    return list(zip(plan.seq_ids, plan.num_computed_tokens, strict=True))


def test_the_token_budget_bounds_drafts() -> None:
    plans: list[StepPlan] = []
    heard = make_engine(plans=plans, token_budget=3).run(make_submit(1, PROMPT, 100))
    assert counts_of(heard)[1] > 0
    assert max(plan.num_tokens for plan in plans) == 3


@pytest.mark.parametrize("output", [OutputParams(logprobs=0), OutputParams(trace=1)])
def test_rows_that_report_each_token_get_no_drafts(output: OutputParams) -> None:
    class Tracing(FakeRunner):
        """Also gives a trace of each token."""

        def run(self, plan: StepPlan) -> Any:
            result = super().run(plan)
            if output.trace is not None:
                trace = TokenTrace(*[None] * len(TokenTrace.__struct_fields__))  # type: ignore[arg-type]
                result.traces = dict.fromkeys(plan.seq_ids, trace)
            return result

    engine = Engine(runner=partial(Tracing, vocab_size=FEW_IDS), block_size=16)
    heard = engine.run(make_submit(1, PROMPT, 100, output=output))
    assert heard.tokens[1] == solo_output(PROMPT, 100, SamplingParams(0), FEW_IDS)
    assert counts_of(heard) == (0, 0)


def test_log_probabilities_of_the_prompt_are_no_hindrance() -> None:
    heard = make_engine().run(make_submit(1, PROMPT, 100, output=OutputParams(prompt_logprobs=0)))
    assert counts_of(heard)[1] > 0
    told = [frame.prompt_logprobs[1] for frame in heard.frames if frame.prompt_logprobs]
    assert [len(entries) for entries in told] == [len(PROMPT)]


def test_a_model_that_cannot_go_back_gets_no_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.engine import building

    made = building.LoadedRunner
    monkeypatch.setattr(building, "LoadedRunner", lambda *parts: made(*parts, may_go_back=False))
    assert counts_of(make_engine().run(make_submit(1, PROMPT, 100))) == (0, 0)


@pytest.mark.parametrize("max_tokens", range(1, 40))
def test_max_tokens_cut_where_they_cut_without_drafts(max_tokens: int) -> None:
    submit = make_submit(1, PROMPT, max_tokens)
    with_drafts, without = make_engine().run(submit), make_engine(drafts=False).run(submit)
    assert with_drafts.tokens == without.tokens
    assert with_drafts.finished == without.finished


@pytest.mark.parametrize("max_tokens", range(20, 40))
def test_no_draft_lies_where_the_last_token_will_be(max_tokens: int) -> None:
    plans: list[StepPlan] = []
    runner = partial(Periodic, before_step=plans.append)
    heard = Engine(runner=runner, block_size=16).run(make_submit(1, PROMPT, max_tokens))
    assert len(heard.tokens[1]) == max_tokens
    ends = [plan.num_computed_tokens[0] + plan.num_new_tokens[0] for plan in plans]
    assert max(ends) == len(PROMPT) + max_tokens - 1


def test_the_context_cuts_where_it_cuts_without_drafts() -> None:
    for length in range(20, 60):
        heard = make_engine(max_model_len=length).run(make_submit(1, PROMPT, 200))
        room = length - len(PROMPT)
        assert heard.tokens[1] == solo_output(PROMPT, room, SamplingParams(0), FEW_IDS)


def test_a_stop_among_accepted_tokens_throws_away_what_follows() -> None:
    num_ids = 4
    num_cut = 0
    for seed in range(30):
        whole = solo_output(PROMPT, 60, SamplingParams(seed), num_ids, stop_ids=(3,), min_tokens=9)
        submit = make_submit(1, PROMPT, 60, seed=seed, min_tokens=9, stop_token_ids=(3,))
        heard = make_engine(num_ids).run(submit)
        assert heard.tokens[1] == whole
        assert heard.finished == make_engine(num_ids, drafts=False).run(submit).finished
        num_cut += len(heard.frames[-1].further.get(1, ())) > 0
    assert num_cut > 0


def test_a_loop_ends_where_it_ends_without_drafts() -> None:
    stop = StopParams(max_tokens=100, loop_min_repeats=3, loop_max_period=4)
    for seed in range(20):
        submit = msgspec.structs.replace(make_submit(1, PROMPT, seed=seed), stop=stop)
        with_drafts, without = make_engine().run(submit), make_engine(drafts=False).run(submit)
        assert with_drafts.tokens == without.tokens
        assert with_drafts.finished == without.finished
        assert with_drafts.finished[1].stop_reason == "loop"


def test_a_row_that_fails_among_accepted_tokens_says_what_came_before() -> None:
    for length in range(20, 60):

        def row_error(seq_id: int, token_ids: list[int], length: int = length) -> str | None:
            return "numerical_error" if len(token_ids) == length else None

        heard = Engine(runner=partial(Periodic, row_error=row_error), block_size=16).run(
            make_submit(1, PROMPT, 100)
        )
        assert heard.tokens[1] == [place % 5 for place in range(len(PROMPT), length)]
        assert heard.finished[1].error_code == "numerical_error"


def test_forced_tokens_and_drafts_follow_each_other() -> None:
    accepted = 0
    for seed in range(20):
        sampling = SamplingParams(seed, grammar="forcing")
        heard = make_engine(7).run(make_submit(1, PROMPT, 80, seed=seed, grammar="forcing"))
        assert heard.tokens[1] == solo_output(PROMPT, 80, sampling, 7)
        accepted += counts_of(heard)[1]
    assert accepted > 0


def test_accepted_tokens_fill_blocks_that_others_find() -> None:
    cached = []
    for drafts in (True, False):
        engine = make_engine(drafts=drafts, block_size=4)
        said = engine.run(make_submit(1, PROMPT, 100)).tokens[1]
        heard = engine.run(make_submit(2, PROMPT + said, 5))
        cached.append(heard.started[2].num_cached_tokens)
        wanted = solo_output(PROMPT + said, 5, SamplingParams(0), FEW_IDS)
        assert heard.tokens[2] == wanted
    assert cached == [(len(PROMPT) + 99) // 4 * 4] * 2


def test_tenants_pay_for_what_was_said() -> None:
    served = []
    for drafts in (True, False):
        engine = make_engine(drafts=drafts)
        heard = engine.run(make_submit(1, PROMPT, 90, tenant="a"), make_submit(2, PROMPT, 40))
        assert drafts == (counts_of(heard)[1] > 0)
        scheduler = engine.core._models["fake"].scheduler
        served.append(scheduler._waiting.shares.served("a"))
    assert served == [len(PROMPT) + 2 * 89] * 2


def test_cpu_time_is_that_of_all_steps() -> None:
    engine = make_engine()
    heard = engine.run(make_submit(1, PROMPT, 90))
    assert heard.frames[-1].seq_cpu_s[1] == pytest.approx(sum(f.cpu_s for f in heard.frames))


def test_drafts_take_no_blocks_and_cause_no_preemption() -> None:
    submits = [make_submit(i, PROMPT, 60, seed=i) for i in range(2)]
    engine = make_engine(num_blocks=2 * 17, block_size=4, prefix_cache=False)
    engine.add(*submits)
    while engine.step() is not None:
        for seq in engine.core._models["fake"].scheduler.sequences.values():
            assert len(seq.block_ids) <= -(-seq.num_tokens // 4)
    assert counts_of(engine.heard)[1] > 0
    assert engine.core.stats()[0].num_preemptions == 0


def test_the_same_after_preemptions() -> None:
    submits = [make_submit(i, [i % 2, 1], 50, seed=i) for i in range(3)]
    engine = make_engine(num_blocks=30, block_size=4, max_preemptions=1000, max_model_len=60)
    heard = engine.run(*submits)
    assert engine.core.stats()[0].num_preemptions > 0
    assert counts_of(heard)[1] > 0
    for submit in submits:
        assert heard.tokens[submit.seq_id] == solo_output(
            submit.prompt_token_ids, 50, submit.sampling, FEW_IDS
        )


def test_plans_continue_where_nothing_can_be_drafted() -> None:
    plans: list[StepPlan] = []
    make_engine(1 << 20, plans).run(make_submit(1, range(9), 100))
    assert sum(plan.continues for plan in plans) == 98  # all but the prompt and the first decode


def test_drafts_that_are_never_right_cost_next_to_nothing() -> None:
    engine = make_engine(40, max_model_len=1000)
    heard = engine.run(make_submit(1, range(9), 900))
    drafted, accepted = counts_of(heard)
    assert accepted < 0.1 * drafted
    assert 0 < drafted < 0.04 * 900


def test_a_text_that_goes_on_repeating_takes_a_step_for_every_six_tokens() -> None:
    engine = Engine(runner=Periodic, block_size=16)
    heard = engine.run(make_submit(1, [9], 240))
    assert heard.tokens[1] == [position % 5 for position in range(1, 241)]
    assert counts_of(heard)[1] == counts_of(heard)[0]
    assert engine.runner.num_steps < 60


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_sequence_says_the_same_with_and_without(data: Any) -> None:
    numbers = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 30),
                st.lists(st.integers(0, 2), min_size=1, max_size=12),
                st.integers(0, 60),
                st.integers(0, 3),
                st.sampled_from([None, "forcing"]),
            ),
            min_size=1,
            max_size=5,
        ),
        "arrival, prompt, output length, min_tokens and grammar",
    )
    submits: list[tuple[int, Submit]] = [
        (step, make_submit(i, prompt, most, seed=i, min_tokens=least, grammar=grammar,
                           stop_token_ids=(2,), tenant="ab"[i % 2]))
        for i, (step, prompt, most, least, grammar) in enumerate(numbers)
    ]  # fmt: skip
    config = {
        "num_blocks": data.draw(st.sampled_from([20, 64]), "blocks"),
        "block_size": data.draw(st.sampled_from([4, 16]), "block size"),
        "token_budget": data.draw(st.sampled_from([4, 64]), "budget"),
        "prefix_cache": data.draw(st.booleans(), "prefix cache"),
        "max_preemptions": 1000,
        "max_model_len": 80,
    }
    num_ids = data.draw(st.sampled_from([3, 5]), "vocabulary")
    answers = []
    for drafts in (True, False):
        engine = make_engine(num_ids, drafts=drafts, **config)
        with without_pauses():
            for step in range(31):
                engine.add(*(submit for due, submit in submits if due == step))
                engine.step()
            heard = engine.run()
        answers.append((heard.tokens, heard.finished))
    assert answers[0] == answers[1]
