"""Models that share the KV memory: shares, what others do not use, shortage, memory given back."""

from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine.core import EngineCore
from shoal.engine.kv_budget import KVBudget
from shoal.protocol.messages import EngineConfig
from shoal.protocol.params import SamplingParams
from shoal.protocol.step import KVMemory, LoadedRunner
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Heard, loaded_model, make_submit

BLOCK_BYTES = 100
NUM_SHARED = 24  # blocks of the budget


class Shared:
    """A core whose models share 24 blocks; remembers what memory was given back."""

    def __init__(self, *models: str, block_bytes: int = BLOCK_BYTES, **config: Any) -> None:
        self.heard = Heard()
        self._ticks = count()
        self.released: dict[str, list[int]] = {name: [] for name in models}
        settings = {"block_size": 4, "max_preemptions": 100, "kv_cache_bytes": 2400} | config
        self.core = EngineCore(
            {
                name: LoadedRunner(
                    FakeRunner(NUM_SHARED, 4),
                    loaded_model(name, max_model_len=256),
                    2400 // block_bytes,
                    KVMemory(block_bytes, self.released[name].extend),
                )
                for name in models
            },
            EngineConfig(models=(), **settings),
            lambda: next(self._ticks) / 1000,  # a step takes time, or one model had every turn
        )

    def step(self) -> None:
        outputs = self.core.step()
        self.core.check()
        assert sum(self.backed(name) for name in self.released) <= NUM_SHARED
        if outputs is not None:
            self.heard.take(outputs)

    def finish(self) -> None:
        for _ in range(3000):
            if not self.core.has_work:
                return
            self.step()
        raise AssertionError("the engine does not come to an end")

    def backed(self, name: str) -> int:
        return self.core._models[name].scheduler.blocks.pool.num_backed

    def used(self, name: str) -> int:
        return {stats.model: stats.num_used_blocks for stats in self.core.stats()}[name]

    def preemptions(self, name: str) -> int:
        return {stats.model: stats.num_preemptions for stats in self.core.stats()}[name]


def submits(model: str, first: int, number: int, tokens: int = 12) -> list[Any]:
    """Each needs 5 blocks of 4 tokens at most."""
    return [
        make_submit(first + i, [first + i] * 8, max_tokens=tokens, seed=first + i, model=model)
        for i in range(number)
    ]


def test_a_model_alone_at_work_gets_what_the_others_do_not_use() -> None:
    engine = Shared("a", "b")
    for submit in submits("a", 0, 4):
        engine.core.add(submit)
    engine.step()
    most = 0
    while engine.core.has_work:
        engine.step()
        most = max(most, engine.used("a"))
    assert most > NUM_SHARED // 2
    assert engine.preemptions("a") == 0


def test_memory_is_taken_only_as_blocks_are_used() -> None:
    engine = Shared("a", "b")
    engine.core.add(submits("a", 0, 1)[0])
    engine.finish()
    assert engine.backed("a") <= 5
    assert engine.backed("b") == 0


def test_a_model_that_comes_later_gets_its_share_within_a_few_steps() -> None:
    engine = Shared("a", "b")
    for submit in submits("a", 0, 8, tokens=40):
        engine.core.add(submit)
    for _ in range(30):
        engine.step()
    assert engine.used("a") > NUM_SHARED // 2
    for submit in submits("b", 40, 2):
        engine.core.add(submit)
    steps = 0
    while engine.used("b") == 0:
        engine.step()
        steps += 1
        assert steps < 5
    engine.finish()
    assert engine.preemptions("b") == 0
    assert engine.released["a"], "the memory of the other model was given back"
    for seq_id, tokens, prompt in [(i, 40, 8) for i in range(8)] + [(40, 12, 8), (41, 12, 8)]:
        expected = solo_output([seq_id] * prompt, tokens, SamplingParams(seed=seq_id))
        assert engine.heard.tokens[seq_id] == expected


def test_a_shortage_ends_with_the_last_sequence_of_the_model() -> None:
    engine = Shared("a", "b")
    for submit in submits("a", 0, 8, tokens=40):
        engine.core.add(submit)
    for _ in range(30):
        engine.step()
    engine.core.add(make_submit(40, [40] * 40, max_tokens=4, model="b"))
    account = engine.core._models["b"].account
    assert account is not None
    engine.core._models["b"].scheduler.plan(0.0)  # as far as the shortage, no further
    assert account.is_short
    engine.core.abort([40])
    assert not account.is_short
    engine.finish()


def test_what_another_model_only_cached_is_given_back_for_a_sequence() -> None:
    engine = Shared("a", "b")
    for i, submit in enumerate(submits("a", 0, 4)):
        engine.core.add(submit)
        if i % 2:
            engine.finish()
    assert engine.backed("a") > 0
    before = engine.backed("a")
    for submit in submits("b", 40, 4, tokens=16):
        engine.core.add(submit)
    engine.finish()
    assert engine.backed("b") + engine.backed("a") <= NUM_SHARED
    assert engine.backed("a") <= before


def test_a_sequence_must_fit_the_share_since_no_more_is_sure() -> None:
    engine = Shared("a", "b")
    assert [loaded.max_model_len for loaded in engine.core.loaded_models] == [48, 48]


def test_one_model_has_the_whole_budget() -> None:
    engine = Shared("a")
    assert [loaded.max_model_len for loaded in engine.core.loaded_models] == [96]


def test_a_small_model_leaves_its_share_to_a_large_one_that_comes_later() -> None:
    budget = KVBudget(2400, num_models=3)
    shares = [budget.open(100, longest, list[int]().extend).share for longest in (100, 200, 5000)]
    assert shares == [3, 4, 17]
    budget = KVBudget(2400, num_models=3)
    assert [budget.open(100, 5000, list[int]().extend).share for _ in range(3)] == [8, 8, 8]


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 20), st.integers(1, 10)),
        min_size=1,
        max_size=25,
    ),
    steps=st.lists(st.integers(0, 6), min_size=25, max_size=25),
)
def test_any_arrivals_end_with_the_answers_they_would_get_alone(
    data: list[tuple[str, int, int]], steps: list[int]
) -> None:
    engine = Shared("a", "b", "c", max_preemptions=10_000)
    for seq_id, ((model, num_prompt, num_output), wait) in enumerate(
        zip(data, steps, strict=False)
    ):
        engine.core.add(
            make_submit(
                seq_id, [seq_id] * num_prompt, max_tokens=num_output, seed=seq_id, model=model
            )
        )
        for _ in range(wait):
            engine.step()
    engine.finish()
    for seq_id, (_, num_prompt, num_output) in enumerate(data):
        expected = solo_output([seq_id] * num_prompt, num_output, SamplingParams(seed=seq_id))
        assert engine.heard.tokens[seq_id] == expected
    assert all(stats.num_used_blocks == 0 for stats in engine.core.stats())


def test_a_model_that_comes_unannounced_gets_what_no_longest_sequence_needs() -> None:
    budget = KVBudget(2400, 2)
    accounts = [budget.open(100, 600, lambda block_ids: None) for _ in range(2)]
    assert sum(account.share for account in accounts) == 24
    for account in accounts:
        account.least = 6
        account.pool = FakePool()
    third = budget.open(100, 600, lambda block_ids: None)
    assert third.share == 8
    assert sum(account.share for account in [*accounts, third]) <= 24
    assert all(account.share >= account.least for account in accounts)
    budget.close(third)
    assert budget.share_of_one_more() == 800
    for account in accounts:
        account.least = account.share
    assert budget.share_of_one_more() == 800  # of the one that is gone
    fourth = budget.open(100, 600, lambda block_ids: None)
    assert fourth.share == 8
    fourth.least = 8
    assert budget.share_of_one_more() == 0


class FakePool:
    num_used = num_backed = 0

    def give_back(self, count: int) -> list[int]:
        return []


def test_a_model_leaves_while_others_work_and_comes_again() -> None:
    engine = Shared("a", "b")
    for submit in [*submits("a", 0, 4), *submits("b", 10, 4)]:
        engine.core.add(submit)
    for _ in range(6):
        engine.step()
    engine.core.remove_model("b")
    engine.released["b"].clear()
    del engine.released["b"]
    engine.finish()
    assert {
        i: end.error_code for i, end in engine.heard.finished.items() if i >= 10
    } == dict.fromkeys(range(10, 14), "model_not_found")
    for i in range(4):
        assert engine.heard.tokens[i] == solo_output([i] * 8, 12, SamplingParams(seed=i))
    again = LoadedRunner(
        FakeRunner(NUM_SHARED, 4),
        loaded_model("b", max_model_len=256),
        NUM_SHARED,
        KVMemory(BLOCK_BYTES, lambda block_ids: None),
    )
    assert engine.core.add_model("b", again).max_model_len >= 32
    for submit in submits("b", 20, 2):
        engine.core.add(submit)
    engine.finish()
    assert engine.heard.tokens[20] == solo_output([20] * 8, 12, SamplingParams(seed=20))
