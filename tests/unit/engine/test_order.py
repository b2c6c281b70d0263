"""Whose turn it is: priority, ageing, tenants, models."""

from collections import Counter

import pytest

from shoal.engine.arbiter import Arbiter
from shoal.protocol.step import StepPlan
from tests.unit.engine.building import Engine, make_submit


def starting_order(engine: Engine) -> list[int]:
    return [seq_id for frame in engine.heard.frames for seq_id in frame.started]


def test_lower_priority_numbers_start_first_and_equals_by_arrival() -> None:
    engine = Engine(max_batch_size=1)
    priorities = {1: 0, 2: 5, 3: -10, 4: 0, 5: -10}
    engine.run(*(make_submit(i, priority=p) for i, p in priorities.items()))
    assert starting_order(engine) == [3, 5, 1, 4, 2]


def test_low_priority_is_not_starved_by_a_flood_of_high_priority() -> None:
    engine = Engine(max_batch_size=1)
    engine.add(make_submit(0, priority=10, max_tokens=1))
    for seq_id in range(1, 500):
        engine.add(make_submit(seq_id, priority=0, max_tokens=1))
        engine.clock.now += 1.0
        engine.step()
        if 0 in engine.heard.started:
            break
    assert engine.heard.started[0].queue_s == pytest.approx(50, abs=10)


def test_waiting_does_not_help_a_heavy_tenant_against_its_equals() -> None:
    engine = Engine(max_batch_size=1)
    engine.add(*(make_submit(i, tenant="heavy", max_tokens=4) for i in range(50)))
    for _ in range(8):
        engine.step()
        engine.clock.now += 100.0
    engine.add(make_submit(99, tenant="light", max_tokens=1))
    for _ in range(5):
        engine.step()
    assert 99 in engine.heard.started


def fairness_index(shares: list[int]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@pytest.mark.parametrize("heavy_prompt", [3, 60])
def test_nine_light_tenants_are_served_like_one_heavy_one(heavy_prompt: int) -> None:
    engine = Engine(512, max_batch_size=4, token_budget=64)
    tenants = {}
    for i in range(400):
        tenants[i] = "heavy"
        engine.add(
            make_submit(i, [i % 60] * heavy_prompt, max_tokens=16, tenant="heavy",
                        use_prefix_cache=False)
        )  # fmt: skip
    next_id = 1000
    for light in range(9):
        for _ in range(30):
            tenants[next_id] = f"light {light}"
            engine.add(make_submit(next_id, max_tokens=8, tenant=f"light {light}"))
            next_id += 1
    served: Counter[str] = Counter()
    for _ in range(300):  # all tenants still have something waiting at the end
        outputs = engine.step()
        for seq_id in outputs.seq_ids:
            served[tenants[seq_id]] += 2
        for seq_id in outputs.started:
            served[tenants[seq_id]] += heavy_prompt if tenants[seq_id] == "heavy" else 3
    waiting = Counter(tenants[i] for i in tenants if i not in engine.heard.finished)
    assert min(waiting[tenant] for tenant in set(tenants.values())) > 0
    assert fairness_index([served[tenant] for tenant in set(tenants.values())]) >= 0.9


def test_a_tenant_that_was_away_has_no_claim_on_the_time_it_missed() -> None:
    engine = Engine(max_batch_size=1)
    engine.run(make_submit(5000, tenant="back", max_tokens=1))
    busy = [make_submit(i, tenant="busy", max_tokens=1) for i in range(300)]
    engine.add(*busy)
    for _ in range(200):
        engine.step()
    engine.add(*(make_submit(1000 + i, tenant="back", max_tokens=1) for i in range(100)))
    engine.heard.frames.clear()
    for _ in range(20):
        engine.step()
    order = starting_order(engine)
    assert sum(seq_id >= 1000 for seq_id in order) == pytest.approx(10, abs=2)


def test_cached_prompt_tokens_are_free_for_their_tenant() -> None:
    engine = Engine(max_batch_size=1)
    prompt = list(range(40))
    engine.run(make_submit(0, prompt, max_tokens=1, tenant="x"))
    engine.add(*(make_submit(10 + i, prompt, max_tokens=1, tenant="cached") for i in range(20)))
    engine.add(*(make_submit(40 + i, [i] * 20, max_tokens=1, tenant="fresh") for i in range(20)))
    for _ in range(12):
        engine.step()
    order = starting_order(engine)
    assert sum(10 <= i < 40 for i in order) > 2 * sum(i >= 40 for i in order)


def test_recomputed_tokens_are_free_for_their_tenant() -> None:
    engine = Engine(num_blocks=12, prefix_cache=False, max_preemptions=100)
    engine.run(*(make_submit(i, [i] * 5, max_tokens=30, tenant="x") for i in range(6)))
    assert engine.core.stats()[0].num_preemptions > 0
    (model,) = engine.core._models.values()
    assert model.scheduler._waiting.shares.served("x") == 6 * (5 + 2 * 29)


def test_two_models_share_the_time_whatever_their_step_takes() -> None:
    engine = Engine(models=("slow", "fast"))
    used = {"slow": 0.0, "fast": 0.0}
    for name, step_s in (("slow", 0.1), ("fast", 0.01)):

        def before_step(plan: StepPlan, name: str = name, step_s: float = step_s) -> None:
            engine.clock.now += step_s
            used[name] += step_s

        engine.runners[name]._before_step = before_step
        engine.add(make_submit(1 if name == "slow" else 2, max_tokens=250, model=name))
    for _ in range(200):
        engine.step()
    assert used["slow"] == pytest.approx(used["fast"], abs=0.11)


def test_a_flooded_model_stops_another_for_one_step_at_most() -> None:
    engine = Engine(models=("flooded", "other"), num_blocks=64)

    def before_step(plan: StepPlan) -> None:
        engine.clock.now += 0.1

    for runner in engine.runners.values():
        runner._before_step = before_step
    engine.run(make_submit(0, model="other", max_tokens=200))
    engine.add(*(make_submit(i, model="flooded", max_tokens=200) for i in range(1, 9)))
    for _ in range(50):
        engine.step()
    engine.add(make_submit(100, model="other"))
    models = [engine.step().model for _ in range(8)]
    assert models == ["other", "flooded"] * 4


def test_a_model_that_comes_back_owes_nothing_from_before() -> None:
    arbiter = Arbiter(["a", "b"])
    for _ in range(100):
        assert arbiter.pick(["a"]) == "a"
        arbiter.charge("a", 1.0)
    assert arbiter.pick(["b"]) == "b"
    arbiter.charge("b", 1.0)
    turns = []
    for _ in range(4):
        turns.append(arbiter.pick(["a", "b"]))
        arbiter.charge(turns[-1], 1.0)
    assert sorted(turns) == ["a", "a", "b", "b"]
    assert turns[0] == "a"
