"""The dispatcher: every sequence hears its own tokens and one last word, whatever others do."""

import pytest

from shoal.bridge.engine_client import Dispatcher
from shoal.bridge.local import LocalEngine
from shoal.engine.core import EngineCore
from shoal.errors import EngineRestarted, InternalError, Unavailable
from shoal.protocol.messages import (
    EngineConfig,
    Finished,
    PromptPart,
    Started,
    StepOutputs,
    TokenLogprobs,
)
from shoal.protocol.params import FinishReason
from shoal.protocol.step import LoadedRunner
from tests.fakes.fake_runner import FakeRunner, loaded_model
from tests.unit.bridge.building import Listener, step_outputs
from tests.unit.engine.building import Clock, make_submit

LENGTH = Finished(FinishReason.LENGTH)


def fails(token_id: int | None) -> None:
    raise ZeroDivisionError


async def test_each_sequence_hears_its_own_tokens_and_what_goes_with_them() -> None:
    dispatcher, first, second = Dispatcher(), Listener(), Listener()
    dispatcher.add(1, first)
    dispatcher.add(2, second)
    logprobs, started = TokenLogprobs(8, -1.0, [], []), Started(0, 0.1, 0.2)
    dispatcher.deliver(
        step_outputs([2, 1], [7, 8], logprobs={1: logprobs}, prompt_logprobs={2: [None]},
                     started={2: started})
    )  # fmt: skip
    assert first.calls == [(8, logprobs, None, None, None)]
    assert second.calls == [(7, None, [None], started, None)]


async def test_a_last_word_ends_the_listening() -> None:
    dispatcher, listener = Dispatcher(), Listener()
    dispatcher.add(1, listener)
    dispatcher.deliver(step_outputs([1], [5], finished={1: LENGTH}))
    assert dispatcher.num_open == 0
    dispatcher.deliver(step_outputs([1], [6]))
    assert listener.token_ids == [5]
    assert listener.ends == [LENGTH]


async def test_a_vector_comes_with_the_last_word() -> None:
    dispatcher, listener, other = Dispatcher(), Listener(), Listener()
    dispatcher.add(1, listener)
    dispatcher.add(2, other)
    finished = {1: LENGTH, 2: LENGTH}
    dispatcher.deliver(step_outputs([], [], finished=finished, embeddings={1: b"vector"}))
    assert (listener.embedding, other.embedding) == (b"vector", None)
    assert listener.ends == other.ends == [LENGTH]


async def test_a_sequence_may_end_without_a_token() -> None:
    dispatcher, listener = Dispatcher(), Listener()
    dispatcher.add(1, listener)
    dispatcher.deliver(step_outputs([], [], finished={1: LENGTH}))
    assert listener.calls == [(None, None, None, None, LENGTH)]
    assert dispatcher.num_open == 0


async def test_a_dropped_sequence_hears_nothing_more() -> None:
    dispatcher, listener = Dispatcher(), Listener()
    dispatcher.add(1, listener)
    assert dispatcher.drop([1, 2]) == [1]
    assert dispatcher.drop([1]) == []
    dispatcher.deliver(step_outputs([1], [5], finished={1: LENGTH}))
    dispatcher.fail_all(EngineRestarted("again"))
    assert not listener.calls
    assert not listener.ends


async def test_a_listener_that_fails_ends_alone() -> None:
    dispatcher, bad, good = Dispatcher(), Listener(fails), Listener()
    dispatcher.add(1, bad)
    dispatcher.add(2, good)
    dispatcher.deliver(step_outputs([1, 2], [5, 6]))
    assert good.token_ids == [6]
    assert isinstance(bad.ends[0], InternalError)


async def test_a_listener_that_fails_at_a_last_word_without_a_token_ends_alone() -> None:
    dispatcher, bad, good = Dispatcher(), Listener(fails), Listener()
    dispatcher.add(1, bad)
    dispatcher.add(2, good)
    dispatcher.deliver(step_outputs([], [], finished={1: LENGTH, 2: LENGTH}))
    assert good.ends == [LENGTH]
    assert isinstance(bad.ends[0], InternalError)


async def test_all_open_sequences_end_with_the_error_once() -> None:
    dispatcher, listeners = Dispatcher(), [Listener() for _ in range(3)]
    for seq_id, listener in enumerate(listeners):
        dispatcher.add(seq_id, listener)
    error = EngineRestarted("again")
    dispatcher.fail_all(error)
    dispatcher.fail_all(error)
    assert [listener.ends for listener in listeners] == [[error]] * 3
    assert dispatcher.num_open == 0


async def test_an_observer_sees_every_step_and_the_latest_numbers_are_kept() -> None:
    seen: list[StepOutputs] = []

    class Observer:
        def on_step(self, outputs: StepOutputs) -> None:
            seen.append(outputs)

    dispatcher = Dispatcher(Observer())
    outputs = step_outputs([1], [5])
    dispatcher.deliver(outputs)
    assert seen == [outputs]
    assert dispatcher.stats == {"fake": outputs.stats}


# --- the engine in this process ------------------------------------------------------------------


def local_engine() -> LocalEngine:
    config = EngineConfig(models=(), block_size=4)
    return LocalEngine(
        EngineCore({"fake": LoadedRunner(FakeRunner(), loaded_model(), 64)}, config, Clock())
    )


async def test_a_local_engine_delivers_like_a_remote_one() -> None:
    engine, listener = local_engine(), Listener()
    await engine.start()
    engine.submit(make_submit(engine.new_seq_id(), max_tokens=3), listener)
    assert await listener.end() == LENGTH
    assert len(listener.token_ids) == 3
    await engine.close()


async def test_a_closed_local_engine_ends_what_was_open_and_takes_nothing() -> None:
    engine, listener = local_engine(), Listener()
    engine.submit(make_submit(1), listener)
    await engine.close()
    end = await listener.end()
    assert isinstance(end, Unavailable)
    assert end.code == "shutting_down"
    with pytest.raises(Unavailable):
        engine.submit(make_submit(2), Listener())


async def test_parts_of_a_prompt_are_put_together_and_forgotten_with_their_engine() -> None:
    def entries(*token_ids: int) -> list[TokenLogprobs | None]:
        return [TokenLogprobs(token_id, -1.0, [], []) for token_id in token_ids]

    dispatcher, listener = Dispatcher(), Listener()
    dispatcher.add(1, listener)
    dispatcher.add_part(PromptPart(1, entries(7)))
    dispatcher.add_part(PromptPart(2, entries(7)))  # of one that is gone
    dispatcher.forget_parts()
    dispatcher.add_part(PromptPart(1, entries(1, 2)))
    dispatcher.add_part(PromptPart(1, entries(3)))
    dispatcher.deliver(step_outputs([1], [5], prompt_logprobs={1: entries(4)}))
    assert listener.calls[0][2] == entries(1, 2, 3, 4)
