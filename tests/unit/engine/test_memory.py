"""Blocks: preemption, the prefix cache, copies of one prompt."""

import pytest

from shoal.engine.block_pool import BlockPool, InvariantError
from shoal.engine.prefix_cache import BlockKey, PrefixCache
from shoal.protocol.params import OutputParams, SamplingParams
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Engine, make_submit

SEED_0 = SamplingParams(seed=0)
PROMPT = list(range(40))


def test_preempted_sequences_give_the_same_output() -> None:
    engine = Engine(num_blocks=12, prefix_cache=False, max_preemptions=100)
    heard = engine.run(*(make_submit(i, [i] * 5, max_tokens=30, seed=i) for i in range(6)))
    assert engine.core.stats()[0].num_preemptions > 0
    for i in range(6):
        assert heard.tokens[i] == solo_output([i] * 5, 30, SamplingParams(seed=i))


def test_the_oldest_always_advances() -> None:
    engine = Engine(num_blocks=8, max_preemptions=100)
    engine.add(*(make_submit(i, [i] * 4, max_tokens=25) for i in range(8)))
    engine.step()
    while engine.core.has_work:
        oldest = min(set(range(8)) - set(engine.heard.finished))
        assert oldest in engine.step().seq_ids


def test_a_sequence_put_back_too_often_fails_as_overload() -> None:
    engine = Engine(num_blocks=8, max_preemptions=0)
    heard = engine.run(*(make_submit(i, [i] * 6, max_tokens=20) for i in range(4)))
    codes = {finished.error_code for finished in heard.finished.values()}
    assert codes == {None, "server_is_overloaded"}
    assert heard.tokens[0] == solo_output([0] * 6, 20, SEED_0)


def test_prompt_logprobs_survive_preemption() -> None:
    wanted = OutputParams(prompt_logprobs=0)
    engine = Engine(num_blocks=8, max_preemptions=100)
    heard = engine.run(*(make_submit(i, [i] * 6, max_tokens=20, output=wanted) for i in range(4)))
    assert engine.core.stats()[0].num_preemptions > 0
    told = [(i, len(p)) for frame in heard.frames for i, p in frame.prompt_logprobs.items()]
    assert sorted(told) == [(i, 6) for i in range(4)]


def test_prompt_logprobs_are_whole_after_a_preemption_in_the_middle_of_the_prompt() -> None:
    engine = Engine(num_blocks=12, token_budget=2, max_batch_size=2)
    engine.add(make_submit(1, range(16), max_tokens=30))
    while 1 not in engine.heard.started:
        engine.step()
    heard = engine.run(make_submit(2, range(20), output=OutputParams(prompt_logprobs=0)))
    assert engine.core.stats()[0].num_preemptions == 1
    (told,) = [frame.prompt_logprobs[2] for frame in heard.frames if frame.prompt_logprobs]
    assert [entry.token_id for entry in told[1:]] == list(range(1, 20))


def test_a_sequence_that_would_soon_be_put_back_is_not_admitted() -> None:
    engine = Engine(num_blocks=5)
    engine.add(make_submit(1, range(4), max_tokens=9))
    engine.step()
    engine.step()
    engine.run(make_submit(2, [9] * 9, max_tokens=4))
    assert engine.core.stats()[0].num_preemptions == 0


def test_an_equal_prompt_is_found_in_the_cache_and_its_last_token_computed() -> None:
    engine = Engine()
    engine.run(make_submit(1, PROMPT))
    before = engine.runner.num_tokens
    heard = engine.run(make_submit(2, PROMPT))
    assert heard.started[1].num_cached_tokens == 0
    assert heard.started[2].num_cached_tokens == 36
    assert engine.runner.num_tokens - before == 4 + 3
    assert heard.tokens[2] == heard.tokens[1] == solo_output(PROMPT, 4, SEED_0)


def test_output_tokens_are_found_in_the_cache_too() -> None:
    engine = Engine()
    heard = engine.run(make_submit(1, PROMPT, max_tokens=9))
    follow_up = PROMPT + heard.tokens[1] + [5]
    heard = engine.run(make_submit(2, follow_up))
    assert heard.started[2].num_cached_tokens == 48
    assert heard.tokens[2] == solo_output(follow_up, 4, SEED_0)


def test_salts_isolate() -> None:
    engine = Engine()
    heard = engine.run(make_submit(1, PROMPT, cache_salt="a"))
    heard = engine.run(make_submit(2, PROMPT, cache_salt="b"), make_submit(3, PROMPT))
    assert heard.started[2].num_cached_tokens == heard.started[3].num_cached_tokens == 0
    heard = engine.run(make_submit(4, PROMPT, cache_salt="a"))
    assert heard.started[4].num_cached_tokens == 36


@pytest.mark.parametrize(
    "fields", [{"use_prefix_cache": False}, {"output": OutputParams(prompt_logprobs=0)}]
)
def test_the_cache_is_not_read_when_the_request_says_so(fields: dict[str, object]) -> None:
    engine = Engine()
    engine.run(make_submit(1, PROMPT))
    heard = engine.run(make_submit(2, PROMPT, **fields))
    assert heard.started[2].num_cached_tokens == 0
    assert heard.tokens[2] == heard.tokens[1]


def test_no_cache_means_no_hits() -> None:
    engine = Engine(prefix_cache=False)
    heard = engine.run(make_submit(1, PROMPT))
    heard = engine.run(make_submit(2, PROMPT))
    assert heard.started[2].num_cached_tokens == 0


def test_a_colliding_key_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    (model,) = engine.core._models.values()
    monkeypatch.setattr(model.scheduler.blocks.cache, "_digest", lambda data: b"same")
    prompts = {1: [7] * 12, 2: [7] * 4 + [8] * 8, 3: [9] * 12, 4: [7] * 12}
    for i, prompt in prompts.items():
        heard = engine.run(make_submit(i, prompt, max_tokens=9, cache_salt=str(i % 2)))
        assert heard.tokens[i] == solo_output(prompt, 9, SEED_0)
        assert heard.started[i].num_cached_tokens == 0


def test_a_collision_within_one_chain_or_across_salts_is_a_miss() -> None:
    cache = PrefixCache(2, digest=lambda data: b"same")
    keys: list[BlockKey] = []
    cache.extend_keys(keys, [5, 5, 5, 5], "salt", 2)
    cache.put(keys[0], "salt", block_id=0)
    assert len(cache.find(keys, "salt")) == 1
    assert cache.find(keys, "other") == []
    different: list[BlockKey] = []
    cache.extend_keys(different, [6, 6], "salt", 1)
    assert cache.find(different, "salt") == []


@pytest.mark.parametrize("token_budget", [16, 512])
def test_copies_of_a_prompt_that_arrive_together_compute_it_once(token_budget: int) -> None:
    engine = Engine(256, token_budget=token_budget)
    heard = engine.run(*(make_submit(i, PROMPT, max_tokens=1, seed=i) for i in range(8)))
    assert engine.runner.num_tokens == 40 + 7 * 4
    for i in range(8):
        assert heard.tokens[i] == solo_output(PROMPT, 1, SamplingParams(seed=i))


def test_copies_start_in_the_order_of_their_arrival() -> None:
    engine = Engine(256)
    engine.add(*(make_submit(i, PROMPT, max_tokens=1) for i in range(6)))
    assert engine.step().seq_ids == [0]
    assert engine.step().seq_ids == [1, 2, 3, 4, 5]


def test_copies_do_not_wait_for_one_that_was_aborted() -> None:
    engine = Engine(token_budget=8)
    engine.add(make_submit(1, PROMPT), make_submit(2, PROMPT))
    engine.step()
    engine.core.abort([1])
    engine.step()
    assert engine.core.stats()[0].num_running == 1


def test_others_pass_copies_that_wait() -> None:
    engine = Engine(token_budget=64, max_batch_size=4)
    engine.add(make_submit(1, PROMPT), make_submit(2, PROMPT), make_submit(3, [9, 9]))
    assert engine.step().seq_ids == [1, 3]
    assert set(engine.step().seq_ids) == {1, 2, 3}


def test_blocks_of_a_failed_row_leave_the_cache() -> None:
    def row_error(seq_id: int, token_ids: list[int]) -> str | None:
        return "numerical_error" if seq_id == 2 else None

    engine = Engine(runner=lambda n, size: FakeRunner(n, size, row_error=row_error))
    heard = engine.run(make_submit(1, PROMPT))
    heard = engine.run(make_submit(2, PROMPT))  # read the blocks of 1, which may be the fault
    heard = engine.run(make_submit(3, PROMPT))
    assert heard.started[3].num_cached_tokens == 0
    assert heard.tokens[3] == heard.tokens[1]


def test_the_least_recently_used_blocks_are_evicted_first() -> None:
    engine = Engine(num_blocks=30)
    first, second = [1] * 40, [2] * 40
    engine.run(make_submit(1, first, max_tokens=1))
    engine.run(make_submit(2, second, max_tokens=1))
    engine.run(make_submit(3, first, max_tokens=1))  # used again
    engine.run(make_submit(4, [3] * 40, max_tokens=1))  # takes 10 free ones
    engine.run(make_submit(5, [4] * 24, max_tokens=1))  # evicts
    heard = engine.run(make_submit(6, first, max_tokens=1))
    assert heard.started[6].num_cached_tokens == 36
    heard = engine.run(make_submit(7, second, max_tokens=1))
    assert heard.started[7].num_cached_tokens < 36


def test_a_chain_is_evicted_from_its_end() -> None:
    engine = Engine(num_blocks=12)
    engine.run(make_submit(1, PROMPT, max_tokens=1))  # 10 blocks
    engine.run(make_submit(2, [50] * 20, max_tokens=1))  # 5 blocks: evicts 3
    heard = engine.run(make_submit(3, PROMPT, max_tokens=1))
    assert heard.started[3].num_cached_tokens == 28


def test_the_pool_notices_a_block_released_twice() -> None:
    pool = BlockPool(4, on_evict=lambda block_id: None)
    blocks = pool.allocate(2)
    pool.release(blocks)
    with pytest.raises(InvariantError):
        pool.release(blocks)


def test_when_blocks_run_out_the_heaviest_tenant_puts_back_its_newest_row() -> None:
    """The light tenant's row came last, and another of the heavy one needs the block."""
    engine = Engine(num_blocks=24, prefix_cache=False, max_preemptions=100)
    engine.add(*(make_submit(i, [i] * 4, max_tokens=40, tenant="heavy") for i in range(4)))
    engine.step()
    engine.add(make_submit(9, [9] * 4, max_tokens=40, tenant="light"))
    while 9 not in engine.heard.finished:
        engine.step()
        (model,) = engine.core._models.values()
        light = model.scheduler._sequences.get(9)
        assert light is None or light.num_preemptions == 0
    assert engine.core.stats()[0].num_preemptions > 0
    heard = engine.run()
    assert heard.tokens[9] == solo_output([9] * 4, 40, SEED_0)
    assert all(finished.error_code is None for finished in heard.finished.values())
