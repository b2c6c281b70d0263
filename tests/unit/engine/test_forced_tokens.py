"""Tokens that a grammar forces: appended without a step, computed as a chunk, counted as others."""

from shoal.engine.preparing import Preparing
from shoal.protocol.params import FinishReason, SamplingParams
from tests.fakes.fake_runner import FakeRunner, forced_after, solo_output
from tests.unit.engine.building import Engine, make_submit

PROMPT = [3, 1, 4, 1, 5]
SAMPLING = SamplingParams(seed=0, grammar="forcing")


def seeds_that(force: bool) -> list[int]:
    """Seeds whose first sampled token forces others, or does not."""
    found = []
    for seed in range(200):
        sampling = SamplingParams(seed=seed, grammar="forcing")
        first = solo_output(PROMPT, 1, sampling)[0]
        if bool(forced_after(first, sampling, 64)) is force:
            found.append(seed)
    return found


def test_forced_tokens_need_no_steps_of_their_own() -> None:
    engine = Engine()
    seed = seeds_that(force=True)[0]
    heard = engine.run(make_submit(1, PROMPT, 30, seed=seed, grammar="forcing"))
    whole = solo_output(PROMPT, 30, SamplingParams(seed=seed, grammar="forcing"))
    assert heard.tokens[1] == whole
    num_forced = sum(len(frame.further.get(1, ())) for frame in heard.frames)
    assert num_forced > 0
    assert engine.runner.num_steps == len(whole) - num_forced


def test_a_chunk_of_forced_tokens_is_split_by_the_token_budget() -> None:
    seed = seeds_that(force=True)[0]
    submit = make_submit(1, PROMPT, 30, seed=seed, grammar="forcing")
    alone = Engine().run(submit).tokens
    assert Engine(token_budget=2).run(submit).tokens == alone
    assert Engine(token_budget=1, max_batch_size=1).run(submit).tokens == alone


def test_max_tokens_cuts_among_forced_tokens() -> None:
    seed = seeds_that(force=True)[0]
    whole = solo_output(PROMPT, 30, SamplingParams(seed=seed, grammar="forcing"))
    for max_tokens in range(1, len(whole)):
        heard = Engine().run(make_submit(1, PROMPT, max_tokens, seed=seed, grammar="forcing"))
        assert heard.tokens[1] == whole[:max_tokens]
        assert heard.finished[1].reason is FinishReason.LENGTH


def test_a_stop_id_among_forced_tokens_ends_the_sequence() -> None:
    seed = seeds_that(force=True)[0]
    sampling = SamplingParams(seed=seed, grammar="forcing")
    first = solo_output(PROMPT, 1, sampling)[0]
    forced = forced_after(first, sampling, 64)
    for count, stop_id in enumerate(forced, 1):
        heard = Engine().run(
            make_submit(1, PROMPT, 30, seed=seed, grammar="forcing", stop_token_ids=(stop_id,))
        )
        wanted = [first, *forced[:count]]
        assert heard.tokens[1] == wanted[: wanted.index(stop_id) + 1]
        assert heard.finished[1].stop_reason == stop_id


def test_the_end_of_the_grammar_ends_the_sequence_without_a_step() -> None:
    for seed in range(40):
        engine = Engine()
        heard = engine.run(make_submit(1, PROMPT, 200, seed=seed, grammar="forcing"))
        assert heard.tokens[1] == solo_output(
            PROMPT, 200, SamplingParams(seed=seed, grammar="forcing")
        )
        assert heard.finished[1].reason is FinishReason.STOP
        assert heard.finished[1].stop_reason is None
        num_sampled = sum(1 in frame.seq_ids for frame in heard.frames)
        assert engine.runner.num_steps == num_sampled


def test_a_complete_answer_of_just_max_tokens_is_not_cut() -> None:
    whole = solo_output(PROMPT, 200, SAMPLING)
    heard = Engine().run(make_submit(1, PROMPT, len(whole), grammar="forcing"))
    assert heard.tokens[1] == whole
    assert heard.finished[1].reason is FinishReason.STOP


def test_preempted_and_crowded_sequences_say_what_they_say_alone() -> None:
    submits = [make_submit(i, [5, i], 40, seed=i, grammar="forcing") for i in range(1, 13)]
    engine = Engine(18, max_preemptions=1000, max_model_len=64)
    heard = engine.run(*submits)
    assert engine.core.stats()[0].num_preemptions > 0
    for submit in submits:
        assert heard.tokens[submit.seq_id] == solo_output(
            submit.prompt_token_ids, 40, submit.sampling
        )


def test_computed_forced_tokens_are_found_in_the_prefix_cache() -> None:
    seed = seeds_that(force=True)[0]
    engine = Engine()
    said = engine.run(make_submit(1, PROMPT, 30, seed=seed, grammar="forcing")).tokens[1]
    heard = engine.run(make_submit(2, PROMPT + said, 1))
    num_known = len(PROMPT) + len(said) - 1  # the last one was never computed
    assert heard.started[2].num_cached_tokens == num_known // 4 * 4


def test_a_sequence_waits_for_its_grammar_while_others_go_on() -> None:
    engine = Engine()
    woken: list[int] = []
    engine.core.wake = lambda: woken.append(1)
    engine.add(make_submit(1, PROMPT, 8, grammar="slow"), make_submit(2, PROMPT, 3))
    for _ in range(3):
        engine.step()
    assert engine.heard.finished.keys() == {2}
    assert not engine.core.has_work
    (future,) = engine.runner.preparing
    future.set_result(None)
    assert woken == [1]
    heard = engine.run()
    assert heard.tokens[1] == solo_output(PROMPT, 8, SamplingParams(seed=0, grammar="slow"))


def test_a_grammar_that_cannot_be_used_says_why() -> None:
    heard = Engine().run(make_submit(1, PROMPT, grammar="wrong"))
    assert heard.finished[1].reason is FinishReason.ERROR
    assert heard.finished[1].error_code == "grammar_error"
    assert heard.finished[1].error_message == "it is wrong"


def test_an_aborted_sequence_never_starts_when_its_grammar_comes() -> None:
    engine = Engine()
    engine.add(make_submit(1, PROMPT, grammar="slow"))
    engine.core.abort([1])
    engine.runner.preparing[0].set_result(None)
    assert engine.run().tokens == {}


def test_the_deadline_counts_from_the_arrival() -> None:
    engine = Engine()
    engine.add(make_submit(1, PROMPT, grammar="slow", deadline_s=2.0))
    engine.clock.now += 3.0
    engine.runner.preparing[0].set_result(None)
    assert engine.run().finished[1].error_code == "request_timeout"
    assert engine.runner.num_steps == 0


def test_a_runner_without_grammars_refuses() -> None:
    class Plain:
        """A runner of nothing but steps."""

        def __init__(self) -> None:
            self.run = FakeRunner().run

    engine = Engine()
    model = engine.core._models["fake"]
    model.preparing = Preparing(model.scheduler, Plain())
    heard = engine.run(make_submit(1, PROMPT, grammar="forcing"))
    assert heard.finished[1].error_code == "grammar_error"
