"""What the engine promises about single sequences: output, ends, errors, reports."""

import msgspec
import pytest

from shoal.engine.sequence import make_sequence
from shoal.engine.stopping import finish_after
from shoal.protocol.messages import Finished
from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams
from shoal.protocol.step import StepPlan
from tests.fakes.fake_runner import FakeRunner, solo_output
from tests.unit.engine.building import Engine, make_submit

SEED_0 = SamplingParams(seed=0)


def test_alone_a_sequence_gives_its_solo_output_and_ends_by_length() -> None:
    heard = Engine().run(make_submit(max_tokens=9))
    assert heard.tokens[1] == solo_output([1, 2, 3], 9, SEED_0)
    assert heard.finished[1] == Finished(FinishReason.LENGTH)


def test_many_in_a_batch_give_their_solo_outputs() -> None:
    prompts = {seq_id: list(range(seq_id % 7 + 1)) for seq_id in range(40)}
    heard = Engine(512, max_batch_size=8, token_budget=16).run(
        *(make_submit(i, prompt, max_tokens=12, seed=i) for i, prompt in prompts.items())
    )
    for seq_id, prompt in prompts.items():
        assert heard.tokens[seq_id] == solo_output(prompt, 12, SamplingParams(seed=seq_id))


def test_a_new_sequence_joins_at_the_next_step_and_a_finished_one_leaves() -> None:
    engine = Engine()
    engine.add(make_submit(1, max_tokens=4))
    engine.step()
    engine.add(make_submit(2, max_tokens=5))
    assert [len(engine.step().seq_ids) for _ in range(3)] == [2, 2, 2]
    assert engine.step().seq_ids == [2]


@pytest.mark.parametrize("token_budget", [1, 3, 4, 7, 64])
def test_a_prompt_cut_into_chunks_gives_the_same_output(token_budget: int) -> None:
    prompt = list(range(30))
    heard = Engine(token_budget=token_budget).run(make_submit(1, prompt, max_tokens=6))
    assert heard.tokens[1] == solo_output(prompt, 6, SEED_0)
    assert max(frame.num_tokens for frame in heard.frames) <= token_budget


def test_a_long_prompt_does_not_stop_running_sequences() -> None:
    engine = Engine(token_budget=8)
    engine.add(make_submit(1, max_tokens=20))
    engine.step()
    engine.add(make_submit(2, list(range(60)), max_tokens=2))
    while 2 not in engine.heard.started:
        assert 1 in engine.step().seq_ids


def test_sequences_never_start_beyond_the_batch_size() -> None:
    engine = Engine(max_batch_size=3)
    heard = engine.run(*(make_submit(i, max_tokens=5) for i in range(10)))
    assert max(frame.batch_size for frame in heard.frames) == 3


def test_an_end_id_stops_without_a_stop_reason_and_a_stop_id_with_it() -> None:
    first = solo_output([1, 2, 3], 1, SEED_0)[0]
    engine = Engine()
    heard = engine.run(
        make_submit(1, end_token_ids=(first,), stop_token_ids=(first,)),
        make_submit(2, stop_token_ids=(first,)),
    )
    assert heard.finished[1] == Finished(FinishReason.STOP)
    assert heard.finished[2] == Finished(FinishReason.STOP, stop_reason=first)
    assert heard.tokens == {1: [first], 2: [first]}


def test_end_ids_are_banned_until_min_tokens_exist() -> None:
    everything_else = tuple(range(1, 64))
    heard = Engine().run(
        make_submit(1, max_tokens=9, min_tokens=3, stop_token_ids=everything_else, seed=5)
    )
    assert heard.tokens[1][:3] == [0, 0, 0]
    assert len(heard.tokens[1]) >= 4
    assert heard.finished[1].stop_reason == heard.tokens[1][-1]


def test_max_tokens_zero_computes_the_prompt_and_gives_no_token() -> None:
    engine = Engine()
    heard = engine.run(
        make_submit(1, range(9), max_tokens=0, output=OutputParams(prompt_logprobs=0))
    )
    assert heard.finished[1] == Finished(FinishReason.LENGTH)
    assert heard.tokens == {}
    assert 1 in heard.started
    assert engine.runner.num_tokens == 9
    assert len(heard.frames[-1].prompt_logprobs[1]) == 9


def test_the_context_length_ends_a_sequence() -> None:
    heard = Engine(max_model_len=16).run(make_submit(1, range(10), max_tokens=50))
    assert heard.finished[1] == Finished(FinishReason.LENGTH)
    assert len(heard.tokens[1]) == 6


@pytest.mark.parametrize(("length", "fits"), [(15, True), (16, False), (17, False)])
def test_a_prompt_that_leaves_no_room_in_the_context_fails_at_once(length: int, fits: bool) -> None:
    engine = Engine(max_model_len=16)
    heard = engine.run(make_submit(1, range(length), max_tokens=3))
    code = heard.finished[1].error_code
    assert code == (None if fits else "context_length_exceeded")
    assert (engine.runner.num_steps > 0) == fits


def test_the_served_context_is_never_more_than_the_pool_holds() -> None:
    engine = Engine(num_blocks=5, max_model_len=256)
    assert engine.core.loaded_models[0].max_model_len == 20
    heard = engine.run(make_submit(1, range(10), max_tokens=100))
    assert len(heard.tokens[1]) == 10


@pytest.mark.parametrize("prompt", [[], [64], [-1], [3, 99, 2]])
def test_an_impossible_prompt_fails_alone(prompt: list[int]) -> None:
    heard = Engine().run(make_submit(1, prompt), make_submit(2))
    assert heard.finished[1].error_code == "invalid_value"
    assert heard.tokens[2] == solo_output([1, 2, 3], 4, SEED_0)


@pytest.mark.parametrize("token_id", [64, -1, 128009, 1 << 70])
@pytest.mark.parametrize("place", ["stop_token_ids", "logit_bias"])
def test_an_id_of_the_caller_beyond_the_vocabulary_ends_its_own_sequence_alone(
    place: str, token_id: int
) -> None:
    ids = ((3, 1.0), (token_id, -100.0)) if place == "logit_bias" else (3, token_id)
    heard = Engine().run(make_submit(1, min_tokens=2, **{place: ids}), make_submit(2, max_tokens=9))
    assert heard.finished[1].error_code == "invalid_value"
    assert heard.tokens == {2: solo_output([1, 2, 3], 9, SEED_0)}


def test_an_end_id_of_the_model_beyond_the_vocabulary_is_never_sampled() -> None:
    heard = Engine().run(make_submit(1, end_token_ids=(128009, -5), min_tokens=2))
    assert heard.finished[1] == Finished(FinishReason.LENGTH)
    assert heard.tokens[1] == solo_output([1, 2, 3], 4, SEED_0)


def test_an_unknown_model_is_answered() -> None:
    heard = Engine().run(make_submit(1, model="nobody"))
    assert heard.finished[1].error_code == "model_not_found"


def test_a_deadline_passed_while_waiting_costs_no_step() -> None:
    engine = Engine()
    engine.add(make_submit(1, deadline_s=2.0))
    engine.clock.now += 2.0
    heard = engine.run()
    assert heard.finished[1] == Finished(FinishReason.ERROR, error_code="request_timeout")
    assert engine.runner.num_steps == 0


def test_a_deadline_passed_while_decoding_ends_with_what_is_there() -> None:
    engine = Engine()
    engine.add(make_submit(1, max_tokens=50, deadline_s=2.0))
    engine.step()
    engine.step()
    engine.clock.now += 2.0
    heard = engine.run()
    assert heard.finished[1] == Finished(FinishReason.LENGTH, stop_reason="max_time")
    assert heard.tokens[1] == solo_output([1, 2, 3], 2, SEED_0)


def test_an_aborted_sequence_is_forgotten_within_a_step_and_gets_no_answer() -> None:
    engine = Engine(max_batch_size=1)
    engine.add(make_submit(1, max_tokens=50), make_submit(2, max_tokens=50))
    engine.step()
    engine.core.abort([1, 2, 2, 77])
    engine.core.check()
    assert not engine.core.has_work
    assert engine.core.stats()[0].num_used_blocks == 0
    heard = engine.run(make_submit(3))
    assert set(heard.finished) == {3}
    assert set(engine.runner.rows) <= {3}


def test_a_failed_row_fails_alone() -> None:
    def row_error(seq_id: int, token_ids: list[int]) -> str | None:
        return "numerical_error" if seq_id == 2 and len(token_ids) == 6 else None

    engine = Engine(runner=lambda n, size: FakeRunner(n, size, row_error=row_error))
    heard = engine.run(*(make_submit(i, [i, 2, 3], max_tokens=8) for i in (1, 2, 3)))
    assert heard.finished[2] == Finished(FinishReason.ERROR, error_code="numerical_error")
    assert len(heard.tokens[2]) == 3
    for i in (1, 3):
        assert heard.tokens[i] == solo_output([i, 2, 3], 8, SEED_0)


@pytest.mark.parametrize("failing_step", [1, 2, 5])
def test_a_failed_step_ends_its_sequences_and_the_next_request_succeeds(failing_step: int) -> None:
    num_steps = 0

    def before_step(plan: StepPlan) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == failing_step:
            raise RuntimeError("kernel")

    engine = Engine(
        runner=lambda n, size: FakeRunner(n, size, before_step=before_step), max_batch_size=2
    )
    heard = engine.run(*(make_submit(i, [i] * 6, max_tokens=9) for i in (1, 2, 3)))
    assert heard.finished[1].error_code == heard.finished[2].error_code == "internal_error"
    assert heard.tokens[3] == solo_output([3] * 6, 9, SEED_0)
    heard = engine.run(make_submit(4, [1] * 6, max_tokens=9))
    assert heard.tokens[4] == solo_output([1] * 6, 9, SEED_0)
    assert set(engine.runner.rows) == {4}


def test_a_failed_step_leaves_no_row_behind_in_the_runner() -> None:
    engine = Engine()
    engine.run(make_submit(1, max_tokens=2))  # to be forgotten with the next plan

    def fail(plan: StepPlan) -> None:
        raise RuntimeError("before the runner looked at the plan")

    engine.runner._before_step = fail
    engine.run(make_submit(2))
    engine.runner._before_step = None
    engine.run(make_submit(3))
    assert set(engine.runner.rows) == {3}


def test_a_stop_id_before_min_tokens_does_not_stop() -> None:
    seq = make_sequence(make_submit(1, min_tokens=1, stop_token_ids=(9,)), 256, 0, 0.0)
    seq.token_ids.append(9)
    assert finish_after(seq, 9) is None
    seq.token_ids.append(9)
    assert finish_after(seq, 9) == Finished(FinishReason.STOP, stop_reason=9)


def test_prompt_logprobs_come_once_and_whole_however_the_prompt_is_cut() -> None:
    prompt = list(range(23))
    told = []
    for token_budget in (5, 64):
        submit = make_submit(1, prompt, output=OutputParams(prompt_logprobs=0, logprobs=0))
        heard = Engine(token_budget=token_budget).run(submit)
        frames = [frame for frame in heard.frames if frame.prompt_logprobs]
        assert len(frames) == 1
        told.append(frames[0].prompt_logprobs[1])
        assert sum(len(frame.logprobs) for frame in heard.frames) == 4
    assert told[0] == told[1]
    assert told[0][0] is None
    assert [entry.token_id for entry in told[0][1:]] == prompt[1:]


def test_prompt_logprobs_from_a_start_on_leave_the_rest_to_the_cache() -> None:
    prompt = list(range(23))
    whole_output = OutputParams(prompt_logprobs=0)
    whole = Engine().run(make_submit(1, prompt, max_tokens=0, output=whole_output))
    (wanted,) = [f.prompt_logprobs[1] for f in whole.frames if f.prompt_logprobs]
    for start in (0, 1, 2, 4, 5, 16, 17, 22):
        for budget in (3, 64):
            engine = Engine(token_budget=budget)
            engine.run(make_submit(1, prompt))  # fills the cache
            output = OutputParams(prompt_logprobs=0, prompt_logprobs_start=start)
            heard = engine.run(make_submit(2, prompt, max_tokens=1, output=output))
            (told,) = [f.prompt_logprobs[2] for f in heard.frames if 2 in f.prompt_logprobs]
            assert told == wanted[start:]
            assert heard.started[2].num_cached_tokens == max(0, start - 1) // 4 * 4
            assert heard.tokens[2] == heard.tokens[1][:1]


def test_started_tells_how_many_were_waiting() -> None:
    heard = Engine(max_batch_size=1).run(*(make_submit(i, [i] * 5) for i in range(3)))
    assert [heard.started[i].num_ahead for i in range(3)] == [0, 1, 2]


def test_a_loop_ends_a_sequence() -> None:
    submit = make_submit(1, max_tokens=50, logit_bias=((5, 100.0),), temperature=0.0)
    stop = StopParams(max_tokens=50, loop_min_repeats=4, loop_max_period=2)
    seq = make_sequence(msgspec.structs.replace(submit, stop=stop), 256, 0, 0.0)
    for number in range(1, 5):
        seq.token_ids.append(7)
        ended = finish_after(seq, 7)
        assert (ended is not None) == (number == 4)
    assert ended == Finished(FinishReason.LENGTH, stop_reason="loop")


def test_started_tells_queue_and_prefill_time() -> None:
    engine = Engine(token_budget=4, max_batch_size=1)
    engine.add(make_submit(1, range(8)))
    engine.clock.now += 3.0
    engine.step()
    engine.clock.now += 0.5
    engine.step()
    started = engine.heard.started[1]
    assert (started.queue_s, started.prefill_s, started.num_cached_tokens) == (3.0, 0.5, 0)


def test_stats_count_what_runs_and_waits() -> None:
    engine = Engine(max_batch_size=1)
    engine.add(make_submit(1, range(5)), make_submit(2, range(7)), make_submit(3, range(6)))
    stats = engine.step().stats
    assert (stats.num_running, stats.num_waiting, stats.waiting_tokens) == (1, 2, 13)
    assert (stats.num_blocks, stats.num_used_blocks) == (64, 2)


def test_speed_is_measured_over_busy_time_only() -> None:
    engine = Engine()

    def before_step(plan: StepPlan) -> None:
        engine.clock.now += 0.5

    engine.runner._before_step = before_step
    engine.run(make_submit(1, range(4), max_tokens=30))
    busy = engine.core.stats()[0].tokens_per_s
    engine.clock.now += 1000
    heard = engine.run(make_submit(2, range(4), max_tokens=30))
    assert busy == pytest.approx(2.0, rel=0.2)
    assert heard.frames[-1].stats.tokens_per_s == pytest.approx(2.0, rel=0.2)
