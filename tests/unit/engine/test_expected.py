"""What a runner expects of its grammars is drafted: the same tokens in fewer steps."""

from typing import Any

import pytest

from shoal.protocol.params import SamplingParams
from shoal.protocol.step import NewRow, StepPlan, StepResult
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Engine, make_submit
from tests.unit.engine.test_drafts import counts_of

PROMPT = list(range(20))
NUM_IDS = 64


def answer_of(seed: int) -> list[int]:
    return solo_output(PROMPT, 40, SamplingParams(seed, grammar="forcing"), NUM_IDS)


LONG = max(range(100), key=lambda seed: len(answer_of(seed)))
"""Seed of a long answer, for grammars end most soon."""


class Remembering(FakeRunner):
    """Its grammars expect that a row goes on as others, which it may learn from, did."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.said: dict[tuple[str | None, str | None], dict[int, list[int]]] = {}
        """[whom it is shared with, grammar] outputs by sequence"""
        self.num_asked = 0

    def run(self, plan: StepPlan) -> StepResult:
        result = super().run(plan)
        for seq_id in plan.seq_ids:
            new = self.rows[seq_id].new
            if new.shares_with is not None and new.sampling.grammar is not None:
                said = self.said.setdefault((new.shares_with, new.sampling.grammar), {})
                said[seq_id] = self.rows[seq_id].token_ids[new.num_prompt_tokens :]
        result.expected = {i: self._expected(self.rows[i].new, i) for i in result.expected}
        return result

    def _expected(self, new: NewRow, seq_id: int) -> list[int]:
        own = self.rows[seq_id].token_ids[new.num_prompt_tokens :]
        return self._going_on(new.sampling, new.shares_with, own)

    def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
        self.num_asked += 1
        return self._going_on(sampling, shares_with, [])

    def _going_on(
        self, sampling: SamplingParams, shares_with: str | None, own: list[int]
    ) -> list[int]:
        said = self.said.get((shares_with, sampling.grammar), {})
        others = (o[len(own) :] for o in said.values() if o[: len(own)] == own)
        return next((rest for rest in others if rest), [])

    def forget_answers(self) -> None:
        self.said.clear()


class Small(Engine):
    """Serves a model with few weights: no draft comes from a sequence itself."""

    def __init__(self, plans: list[StepPlan] | None = None, **config: Any) -> None:
        def runner(num_blocks: int, block_size: int) -> FakeRunner:
            before_step = None if plans is None else plans.append
            return Remembering(num_blocks, block_size, NUM_IDS, before_step=before_step)

        super().__init__(runner=runner, **{"block_size": 16, "draft_weight_bytes": 1, **config})

    def steps_of(self, seq_id: int, **wishes: Any) -> int:
        """Of a sequence that comes alone; what it says is right."""
        before = self.runner.num_steps
        seed = wishes.setdefault("seed", LONG)
        submit = make_submit(seq_id, PROMPT, 40, **{"grammar": "forcing", **wishes})
        assert self.run(submit).tokens[seq_id] == answer_of(seed)
        return self.runner.num_steps - before


def test_the_same_answer_again_takes_few_steps() -> None:
    engine = Small()
    first = engine.steps_of(1)
    assert engine.steps_of(2) <= first // 2


def test_a_draft_that_finds_no_block_is_none() -> None:
    """Two rows want one more block each for a draft, and there is one."""
    plans: list[StepPlan] = []
    engine = Small(
        plans, num_blocks=17, block_size=4, prefix_cache=False, max_model_len=64, max_preemptions=99
    )
    prompt = list(range(22))
    wanted = solo_output(prompt, 40, SamplingParams(LONG, grammar="forcing"), NUM_IDS)
    for pair in ((1, 2), (3, 4)):
        heard = engine.run(
            *(make_submit(i, prompt, 40, seed=LONG, grammar="forcing") for i in pair)
        )
    assert [*heard.tokens.values()] == [wanted] * 4
    assert any(plan.drafts for plan in plans)
    assert all(all(plan.drafts.values()) for plan in plans)


@pytest.mark.parametrize(
    "other",
    [{"tenant": "b"}, {"cache_salt": "x"}, {"grammar": "forcing too"}, {"use_prefix_cache": False}],
)
def test_others_learn_nothing_from_it(other: dict[str, Any]) -> None:
    engine = Small(prefix_cache=False)
    first = engine.steps_of(1)
    assert engine.steps_of(2, **other) == first
    assert engine.steps_of(3) < first


def test_a_sequence_without_grammar_gets_no_drafts_from_answers() -> None:
    engine = Small()
    engine.steps_of(1)
    before = len(engine.heard.frames)
    heard = engine.run(make_submit(2, PROMPT, 40))
    assert heard.tokens[2] == solo_output(PROMPT, 40, SamplingParams(0), NUM_IDS)
    assert sum(frame.num_drafted for frame in heard.frames[before:]) == 0


def test_nothing_is_asked_where_drafts_are_off() -> None:
    plans: list[StepPlan] = []
    engine = Small(plans, drafts=False)
    assert engine.steps_of(1) == engine.steps_of(2)
    assert not any(plan.wants_expected for plan in plans)
    assert isinstance(engine.runner, Remembering)
    assert not engine.runner.num_asked


def test_a_reset_forgets_what_was_said() -> None:
    engine = Small(prefix_cache=False)
    first = engine.steps_of(1)
    assert engine.steps_of(2) < first
    engine.core.reset_cache("fake")
    assert engine.steps_of(3) == first


def test_a_draft_may_follow_a_prompt_and_forced_tokens() -> None:
    plans: list[StepPlan] = []
    engine = Small(plans)
    engine.steps_of(1)
    del plans[:]
    engine.steps_of(2)
    assert plans[0].new_rows
    assert plans[0].drafts
    known = [plan.num_tokens - plan.num_drafted for plan in plans[1:] if plan.drafts]
    assert max(known) > 1


def test_a_draft_may_take_the_block_that_its_sequence_may_need_next() -> None:
    plans: list[StepPlan] = []
    engine = Small(plans, block_size=4)
    engine.steps_of(1)
    engine.steps_of(2)
    assert any(
        plan.drafts and plan.new_block_ids and plan.num_new_tokens[0] - plan.num_drafted == 1
        for plan in plans
    )
    tight = Small(num_blocks=15, block_size=4, prefix_cache=False, max_model_len=60)
    for seq_id in range(1, 6):
        tight.steps_of(seq_id)
    assert tight.core.stats()[0].num_preemptions == 0


def test_what_is_expected_at_the_start_is_no_draft_for_later_steps() -> None:
    class Hasty(FakeRunner):
        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            result.expected = {}
            return result

        def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
            return [1, 2, 3]

    plans: list[StepPlan] = []
    engine = Engine(
        runner=lambda n, size: Hasty(n, size, NUM_IDS, before_step=plans.append), block_size=16
    )
    heard = engine.run(make_submit(1, PROMPT, 40, seed=LONG, grammar="forcing"))
    assert heard.tokens[1] == answer_of(LONG)
    assert plans[0].drafts == {1: [1, 2, 3]}
    assert [1, 2, 3] not in [draft for plan in plans[1:] for draft in plan.drafts.values()]


def test_a_fault_in_what_is_expected_at_the_start_costs_nothing_else() -> None:
    class Broken(FakeRunner):
        def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
            raise ValueError("a fault")

    engine = Engine(runner=lambda n, size: Broken(n, size, NUM_IDS), block_size=16)
    heard = engine.run(make_submit(1, PROMPT, 40, seed=LONG, grammar="forcing"))
    assert heard.tokens[1] == answer_of(LONG)


def test_two_sequences_learn_from_each_other_and_say_what_they_say_alone() -> None:
    engine = Small(num_blocks=40, block_size=4, max_model_len=100, max_preemptions=100)
    submits = [
        make_submit(i, PROMPT, 40, seed=LONG + i % 3, grammar="forcing") for i in range(1, 9)
    ]
    for pair in zip(submits[::2], submits[1::2], strict=True):
        heard = engine.run(*pair)
    for submit in submits:
        assert heard.tokens[submit.seq_id] == answer_of(submit.sampling.seed)
    assert counts_of(heard)[1] > 0
