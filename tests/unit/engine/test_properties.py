"""Random arrivals, lengths, aborts, faults, deadlines and tiny pools: nothing is ever mixed up.

After every step the engine's own invariants are checked (used + free = total, no block twice,
no sequence lost); at the end every sequence has ended and said what it says alone.
"""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shoal.engine import drafts as drafts_module
from shoal.engine.block_pool import BlockPool
from shoal.protocol.messages import Submit
from shoal.protocol.params import FinishReason, OutputParams
from shoal.protocol.step import StepPlan
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Engine, make_submit

# Few different tokens and prompts, so that prefixes are often shared.
PROMPTS = st.one_of(
    st.lists(st.integers(0, 1), min_size=1, max_size=6),
    st.builds(lambda n, tail: [5] * n + tail, st.integers(1, 30), st.lists(st.integers(0, 3))),
)
MODELS = ("fake", "other")
WEIGHTS = {"a": 1.0, "b": 3.0, "c": 0.2}


class EngineMachine(RuleBasedStateMachine):
    """Drives an engine of two models; remembers what was asked."""

    @initialize(
        num_blocks=st.integers(2, 24),
        block_size=st.sampled_from([1, 2, 4, 8]),
        max_batch_size=st.integers(1, 8),
        token_budget=st.integers(1, 24),
        prefix_cache=st.booleans(),
        max_preemptions=st.sampled_from([0, 1, 8, 1000]),
        drafts=st.sampled_from([True, True, False]),
        num_ids=st.sampled_from([64, 3]),
    )
    def build(self, num_blocks: int, num_ids: int, **config: Any) -> None:
        self.num_ids = num_ids  # that are said: of a few, drafts are often right
        self.patch = pytest.MonkeyPatch()  # drafts go on however often they are wrong
        self.patch.setattr(drafts_module, "_FIRST_PAUSE", 0)
        self.patch.setattr(drafts_module, "_LONGEST_PAUSE", 0)
        self.engine = Engine(num_blocks, models=MODELS, runner=self.make_runner, **config)
        self.context = self.engine.core.loaded_models[0].max_model_len
        self.asked: dict[int, Submit] = {}
        self.aborted: set[int] = set()
        self.bad_rows: set[int] = set()
        self.in_failed_step: set[int] = set()
        self.step_fails = False

    def make_runner(self, num_blocks: int, block_size: int) -> FakeRunner:
        return FakeRunner(
            num_blocks,
            block_size,
            self.num_ids,
            before_step=self.before_step,
            row_error=self.row_error,
        )

    def before_step(self, plan: StepPlan) -> None:
        config = self.engine.config
        assert plan.seq_ids, "an empty step"
        assert plan.num_tokens <= self.most_tokens()
        assert len(plan.seq_ids) <= config.max_batch_size
        if self.step_fails:
            self.step_fails = False
            self.in_failed_step.update(plan.seq_ids)
            raise RuntimeError("the whole step fails")

    def most_tokens(self) -> int:
        """Of a step."""
        return self.engine.config.token_budget

    def row_error(self, seq_id: int, token_ids: list[int]) -> str | None:
        return "numerical_error" if seq_id in self.bad_rows else None

    @rule(
        prompt=PROMPTS,
        copies=st.sampled_from([1, 1, 1, 3]),
        max_tokens=st.integers(0, 30),
        min_tokens=st.integers(0, 3),
        stop_token_ids=st.sets(st.just(2) | st.integers(2, 63), max_size=8).map(tuple),
        model=st.sampled_from(MODELS),
        priority=st.integers(-2, 2),
        tenant=st.sampled_from("abc"),
        cache_salt=st.sampled_from(["", "", "s"]),
        use_prefix_cache=st.sampled_from([True, True, False]),
        output=st.sampled_from([OutputParams(), OutputParams(prompt_logprobs=0, logprobs=0)]),
        deadline_s=st.sampled_from([None, None, 5.0]),
        seed=st.integers(0, 3),
        grammar=st.sampled_from([None, None, "forcing"]),
    )
    def submit(self, copies: int, output: OutputParams, **fields: Any) -> None:
        if output.logprobs is not None:  # then tokens are sampled one by one
            fields["grammar"] = None
        for _ in range(copies):
            weight = WEIGHTS[fields["tenant"]]
            submit = make_submit(len(self.asked), output=output, weight=weight, **fields)
            self.asked[submit.seq_id] = submit
            self.engine.add(submit)

    @rule(count=st.integers(1, 5))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.asked:
            seq_id = data.draw(st.sampled_from(sorted(self.asked)))
            self.engine.core.abort([seq_id])
            if seq_id not in self.engine.heard.finished:
                self.aborted.add(seq_id)

    @rule(data=st.data())
    def break_a_row(self, data: st.DataObject) -> None:
        if self.asked:
            self.bad_rows.add(data.draw(st.sampled_from(sorted(self.asked))))

    @rule()
    def break_the_next_step(self) -> None:
        self.step_fails = True

    @rule()
    def let_time_pass(self) -> None:
        self.engine.clock.now += 3.0

    @invariant()
    def bookkeeping_is_right(self) -> None:
        if hasattr(self, "engine"):
            self.engine.core.check()
            for model in self.engine.core._models.values():
                for seq in model.scheduler.sequences.values():
                    num_wanted = model.scheduler.blocks.blocks_for(seq.num_tokens)
                    num_wanted += seq.submit.sampling.grammar is not None  # for a draft
                    assert len(seq.block_ids) <= num_wanted, "a block for drafts"

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        heard = self.engine.run()
        self.patch.undo()
        assert heard.finished.keys() | self.aborted == self.asked.keys(), "one never ended"
        assert not heard.finished.keys() & self.aborted, "an aborted one was answered"
        for seq_id in self.asked:
            self.check_answer(seq_id)

    def check_answer(self, seq_id: int) -> None:
        submit, heard = self.asked[seq_id], self.engine.heard
        prompt, stop = submit.prompt_token_ids, submit.stop
        room = max(0, self.context - len(prompt))
        whole = solo_output(
            prompt,
            min(stop.max_tokens, room),
            submit.sampling,
            self.num_ids,
            stop_ids=stop.stop_token_ids,
            min_tokens=stop.min_tokens,
        )
        tokens = heard.tokens.get(seq_id, [])
        assert tokens == whole[: len(tokens)], "not what it says alone"
        if (finished := heard.finished.get(seq_id)) is None:
            return
        if finished.reason is FinishReason.ERROR:
            self.check_error(seq_id, finished.error_code, room)
        elif finished.stop_reason == "max_time":
            assert stop.deadline_s is not None
        else:
            assert tokens == whole, "it ended too early"
            stopped = bool(whole) and whole[-1] in stop.stop_token_ids
            if submit.sampling.grammar is not None:
                stopped = finished.reason is FinishReason.STOP
                assert stopped or len(whole) == min(stop.max_tokens, room)
            expected = FinishReason.STOP if stopped else FinishReason.LENGTH
            if not stopped or len(whole) > stop.min_tokens:
                assert finished.reason is expected
            self.check_reports(seq_id)

    def check_error(self, seq_id: int, code: str | None, room: int) -> None:
        submit = self.asked[seq_id]
        allowed = {
            "numerical_error": seq_id in self.bad_rows,
            "internal_error": seq_id in self.in_failed_step,
            "request_timeout": submit.stop.deadline_s is not None,
            "server_is_overloaded": self.engine.config.max_preemptions < 1000,
            "context_length_exceeded": room < min(submit.stop.max_tokens, 1)
            or len(submit.prompt_token_ids) > self.context,
        }
        assert allowed[code or ""], f"{code} without a cause"

    def check_reports(self, seq_id: int) -> None:
        submit, frames = self.asked[seq_id], self.engine.heard.frames
        assert seq_id in self.engine.heard.started
        if submit.output.prompt_logprobs is not None:
            told = [f.prompt_logprobs[seq_id] for f in frames if seq_id in f.prompt_logprobs]
            assert [len(entries) for entries in told] == [len(submit.prompt_token_ids)]
            said = [entry.token_id for entry in told[0][1:] if entry is not None]
            assert said == submit.prompt_token_ids[1:]


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class PoolMachine(RuleBasedStateMachine):
    """The block pool against the plainest model of it: a list of holders for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.cached: set[int] = set()
        self.pool = BlockPool(8, on_evict=self.cached.remove)
        self.held: list[list[int]] = []

    @rule(count=st.integers(0, 8))
    def allocate(self, count: int) -> None:
        if count <= self.pool.num_available:
            held = {block_id for table in self.held for block_id in table}
            table = self.pool.allocate(count)
            assert not held & set(table), "a block was handed out twice"
            self.held.append(table)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            index = data.draw(st.integers(0, len(self.held) - 1))
            self.pool.release(self.held.pop(index))

    @rule(data=st.data())
    def cache(self, data: st.DataObject) -> None:
        used = sorted({block_id for table in self.held for block_id in table} - self.cached)
        if used:
            block_id = data.draw(st.sampled_from(used))
            self.cached.add(block_id)
            self.pool.mark_cached(block_id)

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        if self.cached:
            block_id = data.draw(st.sampled_from(sorted(self.cached)))
            self.pool.share(block_id)
            self.held.append([block_id])

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if self.cached:
            block_id = data.draw(st.sampled_from(sorted(self.cached)))
            self.cached.remove(block_id)
            self.pool.unmark_cached(block_id)

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check()
        used = {block_id for table in self.held for block_id in table}
        assert self.pool.num_used == len(used)
        assert self.pool.num_used + self.pool.num_available == self.pool.num_blocks


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
