"""Fairness between tenants: shares by weight, rows that make way, first tokens beside a flood."""

from statistics import median

import pytest

from shoal.engine.yielding import MAX_YIELDS
from tests.fakes.fake_runner import solo_output
from tests.unit.engine.building import Engine, make_submit
from tests.unit.engine.tenant_load import Tenant, TenantLoad, fairness_index, rows_of


def nine_light(**fields: float) -> list[Tenant]:
    return [Tenant(f"light {i}", **fields) for i in range(9)]  # type: ignore[arg-type]


MIXES = {
    "long answers": Tenant("heavy", 64, output=300),
    "long prompts": Tenant("heavy", 64, prompt=600, output=8),
    "both": Tenant("heavy", 100, prompt=300, output=100),
    "heavier by weight": Tenant("heavy", 64, output=300, weight=4.0),
    "lighter by weight": Tenant("heavy", 64, output=300, weight=0.25),
}


@pytest.mark.parametrize("heavy", MIXES.values(), ids=MIXES.keys())
@pytest.mark.parametrize("output", [8, 60])
def test_tenants_that_all_wait_are_served_by_weight(heavy: Tenant, output: int) -> None:
    heavy = Tenant(heavy.name, heavy.num_open, heavy.prompt, heavy.output, heavy.weight)
    load = TenantLoad([heavy, *nine_light(num_open=20, output=output)])
    load.run(1.0)
    load.forget()
    load.run(3.0)
    assert fairness_index(load.tenants) >= 0.95


def test_light_tenants_of_different_weights_get_their_shares() -> None:
    tenants = [Tenant(f"{weight}", 64, weight=weight, output=40) for weight in (1.0, 2.0, 5.0)]
    load = TenantLoad(tenants)
    load.run(6.0)
    assert fairness_index(tenants) >= 0.98
    assert tenants[2].served > 4 * tenants[0].served


@pytest.mark.parametrize(
    ("heavy", "most"),
    [(MIXES["long answers"], 1.5), (MIXES["long prompts"], 2.0), (MIXES["both"], 2.0)],
)
def test_a_flood_hardly_delays_first_tokens_of_light_tenants(heavy: Tenant, most: float) -> None:
    """Nine light tenants that ask for a little now and then, with and without a flood beside."""
    medians = []
    for others in ([], [Tenant("heavy", heavy.num_open, heavy.prompt, heavy.output)]):
        light = [Tenant(f"light {i}", 2, output=16, pause_s=0.011 * (i + 1)) for i in range(9)]
        load = TenantLoad([*others, *light])
        load.run(0.5)
        load.forget()
        load.run(2.0)
        medians.append(median(wait for tenant in light for wait in tenant.first_token_s))
        num_tokens = sum(tenant.served for tenant in load.tenants)
    assert medians[1] <= most * medians[0]
    assert num_tokens > 10_000  # and the machine is not left idle for it


def test_a_long_prompt_delays_a_first_token_by_a_chunk_at_most() -> None:
    engine = Engine(2000, max_model_len=5000, token_budget=64, prefix_cache=False)
    engine.add(*(make_submit(i, [i] * 1500, tenant="heavy") for i in range(4)))
    for _ in range(3):
        engine.step()
    engine.add(make_submit(9, tenant="light"))
    for _ in range(2):
        engine.step()
    assert 9 in engine.heard.started


def test_a_full_batch_makes_way_for_a_light_tenant_at_once() -> None:
    engine = Engine(512, max_batch_size=8)
    engine.add(*(make_submit(i, [i] * 5, 60, tenant="heavy") for i in range(20)))
    for _ in range(5):
        engine.step()
    engine.add(*(make_submit(100 + i, [7, i], 3, tenant=f"light {i}") for i in range(3)))
    engine.step()
    assert {100, 101, 102} <= engine.heard.started.keys()
    assert engine.core.stats()[0].num_yields == 3


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sequence_that_made_way_says_what_it_says_alone(
    prefix_cache: bool, temperature: float
) -> None:
    engine = Engine(512, max_batch_size=4, prefix_cache=prefix_cache)
    heavy = [
        make_submit(i, [i] * 5, 40, tenant="heavy", seed=i, temperature=temperature)
        for i in range(8)
    ]
    engine.add(*heavy)
    for turn in range(12):
        for _ in range(3):
            engine.step()
        engine.add(make_submit(100 + turn, [9, turn], 2, tenant="light"))
    heard = engine.run()
    assert engine.core.stats()[0].num_yields >= 6
    for submit in heavy:
        alone = solo_output(submit.prompt_token_ids, 40, submit.sampling)
        assert heard.tokens[submit.seq_id] == alone


def test_one_sequence_makes_way_a_few_times_only() -> None:
    engine = Engine(512, max_batch_size=2)
    engine.add(*(make_submit(i, [i] * 5, 200, tenant="heavy") for i in range(2)))
    for turn in range(40):
        for _ in range(3):
            engine.step()
        engine.add(make_submit(100 + turn, [9, turn], 1, tenant="light"))
    engine.run()
    assert 1 <= engine.core.stats()[0].num_yields <= 2 * MAX_YIELDS


def test_rows_do_not_change_hands_among_equals() -> None:
    load = TenantLoad([Tenant(f"t{i}", 40, output=50) for i in range(4)], max_batch_size=16)
    load.run(1.0)
    before = load.num_yields
    load.run(3.0)
    assert load.num_yields - before <= 8
    assert all(2 <= num_rows <= 6 for num_rows in rows_of(load).values())


def test_a_row_makes_way_for_no_lower_priority() -> None:
    engine = Engine(512, max_batch_size=4)
    engine.add(*(make_submit(i, [i] * 5, 30, tenant="heavy", priority=-5) for i in range(8)))
    for _ in range(3):
        engine.step()
    engine.add(make_submit(9, tenant="light", priority=0))
    for _ in range(5):
        engine.step()
    assert engine.core.stats()[0].num_yields == 0


def test_blocks_are_given_up_too() -> None:
    """Rows are left, but the heavy tenant's sequences hold all KV blocks."""
    engine = Engine(num_blocks=24, max_batch_size=16, prefix_cache=False, max_preemptions=1000)
    engine.add(*(make_submit(i, [i] * 14, 40, tenant="heavy") for i in range(12)))
    for _ in range(4):
        engine.step()
    engine.add(make_submit(99, [5] * 9, 2, tenant="light"))
    for _ in range(3):
        engine.step()
    assert 99 in engine.heard.started
    engine.run()


def test_copies_that_wait_for_a_prefix_are_not_overtaken_by_those_that_made_way() -> None:
    engine = Engine(512, max_batch_size=4, token_budget=8)
    engine.add(*(make_submit(i, [i] * 5, 60, tenant="heavy") for i in range(6)))
    for _ in range(4):
        engine.step()
    engine.add(*(make_submit(100 + i, [3] * 40, 4, seed=i, tenant="light") for i in range(2)))
    engine.run()
    assert engine.core.stats()[0].num_yields <= 4


def test_an_idle_tenant_saves_nothing_up_while_others_run_without_a_queue() -> None:
    """The heavy one fills the batch alone, with nobody waiting; who comes then is its equal."""
    light, heavy = Tenant("light", 64, output=40), Tenant("heavy", 64, output=40)
    load = TenantLoad([heavy])
    load.run(5.0)
    load.tenants.append(light)
    load._to_send += [(load.clock.now, light)] * light.num_open
    load.forget()
    load.run(4.0)
    assert fairness_index([light, heavy]) >= 0.97
