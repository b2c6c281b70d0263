"""What answers under one grammar say lets others come in fewer steps, the same token by token."""

from collections.abc import Iterable
from typing import Any

import pytest

from shoal.engine import answers as answers_module
from shoal.engine.answers import Answers, AnswerTable
from shoal.engine.sequence import make_sequence
from shoal.protocol.params import SamplingParams
from shoal.protocol.step import StepPlan, StepResult
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Engine, make_submit
from tests.unit.engine.test_drafts import counts_of

PROMPT = list(range(20))
NUM_IDS = 64


def answer_of(seed: int) -> list[int]:
    return solo_output(PROMPT, 40, SamplingParams(seed, grammar="forcing"), NUM_IDS)


LONG = max(range(100), key=lambda seed: len(answer_of(seed)))
"""Seed of a long answer, for grammars end most soon."""


class Silent(FakeRunner):
    """Its grammars expect nothing."""

    def run(self, plan: StepPlan) -> StepResult:
        result = super().run(plan)
        result.expected = {}
        return result


class Small(Engine):
    """Serves a model with few weights: no draft comes from a sequence itself."""

    def __init__(self, plans: list[StepPlan] | None = None, **config: Any) -> None:
        def runner(num_blocks: int, block_size: int) -> FakeRunner:
            before_step = None if plans is None else plans.append
            return Silent(num_blocks, block_size, NUM_IDS, before_step=before_step)

        super().__init__(runner=runner, **{"block_size": 16, "draft_weight_bytes": 1, **config})

    def steps_of(self, seq_id: int, **wishes: Any) -> int:
        """Of a sequence that comes alone; what it says is right."""
        before = self.runner.num_steps
        seed = wishes.setdefault("seed", LONG)
        submit = make_submit(seq_id, PROMPT, 40, **{"grammar": "forcing", **wishes})
        assert self.run(submit).tokens[seq_id] == answer_of(seed)
        return self.runner.num_steps - before


def table_of(*texts: Iterable[int]) -> AnswerTable:
    table = AnswerTable()
    for text in texts:
        table.learn([*text], 0)
    return table


def test_a_guess_is_what_mostly_followed_and_its_share() -> None:
    table = table_of([1, 8, 2, 3, 4], [1, 8, 2, 3, 5], [0, 8, 2, 3, 5], [1, 8, 2, 3, 5])
    assert table.guess([1, 8, 2, 3]) == (5, 2 / 3)
    assert table.guess([0, 8, 2, 3]) == (5, 1.0)
    assert table.guess([9, 9, 2, 3]) == (5, 3 / 4)
    assert table.guess([2, 3]) == (5, 3 / 4)
    assert table.guess([8, 2, 9, 3]) is None


def test_an_answer_begins_behind_its_prompt() -> None:
    table = AnswerTable()
    table.learn([1, 2, 3, 4, 5, 6], 5)
    assert table.guess([1, 2, 3, 4]) is None
    assert table.guess([2, 3, 4, 5]) == (6, 1.0)


def test_a_table_follows_what_is_said_lately() -> None:
    table = table_of(*[[1, 2, 3, 4, 5]] * 500, *[[1, 2, 3, 4, 6]] * 70)
    guess = table.guess([1, 2, 3, 4])
    assert guess is not None
    assert guess[0] == 6


def test_what_tables_keep_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "_MAX_PLACES", 10)
    monkeypatch.setattr(answers_module, "_MAX_TABLES", 3)
    table = table_of(range(100), [6, 7, 8, 9, 1])
    assert len(table) == 10
    assert table.guess([6, 7, 8, 9]) == (1, 1.0)
    for follower in range(50):
        table.learn([6, 7, 8, 9, follower], 0)
    assert max(map(len, table._followers.values())) <= answers_module._MAX_FOLLOWERS
    answers = Answers()
    for name in "abcdefg":
        submit = make_submit(1, grammar=name)
        assert answers.table(make_sequence(submit, 100, 0, 0.0)) is not None
    assert [key[2] for key in answers._tables] == ["e", "f", "g"]
    monkeypatch.setattr(answers_module, "_MAX_PLACES_OF_ALL", 15)
    for name in "ghi":
        held = answers.table(make_sequence(make_submit(1, grammar=name), 100, 0, 0.0))
        assert held is not None
        held.learn([*range(100)], 0)
    answers.table(make_sequence(make_submit(1, grammar="h"), 100, 0, 0.0))
    assert [key[2] for key in answers._tables] == ["h"]


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


def test_nothing_is_learned_or_asked_where_drafts_are_off() -> None:
    engine = Small(drafts=False)
    assert engine.steps_of(1) == engine.steps_of(2)
    drafts = engine.core._models["fake"].scheduler.drafts
    assert not drafts._tables
    assert not drafts._answers._tables


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


def test_what_a_grammar_expects_is_a_draft_unless_answers_say_otherwise() -> None:
    class Expecting(Silent):
        """Always the same, which is wrong."""

        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            result.expected = {seq_id: [1, 2, 3] for seq_id in plan.seq_ids}
            return result

    plans: list[StepPlan] = []
    engine = Engine(
        runner=lambda n, size: Expecting(n, size, NUM_IDS, before_step=plans.append), block_size=16
    )
    heard = engine.run(make_submit(1, PROMPT, 40, seed=LONG, grammar="forcing"))
    assert heard.tokens[1] == answer_of(LONG)
    assert {tuple(draft) for plan in plans for draft in plan.drafts.values()} == {(1, 2, 3)}
    first, before = counts_of(heard)[1], len(heard.frames)
    engine.run(make_submit(2, PROMPT, 40, seed=LONG, grammar="forcing"))
    assert heard.tokens[2] == answer_of(LONG)
    assert sum(frame.num_accepted for frame in heard.frames[before:]) > first


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
