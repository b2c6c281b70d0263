"""The engine as a child process: crashes, hangs and bad frames end every sequence once, and a
new child serves afterwards."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from shoal.bridge.remote import RemoteEngine
from shoal.bridge.supervisor import Supervisor
from shoal.errors import EngineRestarted, PoisonRequest, Unavailable
from shoal.protocol.messages import EngineStats, Finished, ModelSource
from shoal.protocol.params import FinishReason, SamplingParams
from tests.fakes.fake_runner import solo_output
from tests.unit.bridge.building import Listener, ready, remote_engine
from tests.unit.engine.building import make_submit

SLOW = "num_blocks=64&step_s=0.02"


def submit(engine: RemoteEngine, *, prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 4):
    listener = Listener()
    engine.submit(make_submit(engine.new_seq_id(), prompt, max_tokens), listener)
    return listener


async def test_a_sequence_gets_its_tokens_and_one_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch) as engine:
        await ready(engine)
        listener = submit(engine, max_tokens=5)
        assert await listener.end() == Finished(FinishReason.LENGTH)
        assert listener.token_ids == solo_output([1, 2, 3], 5, SamplingParams(seed=0))
        assert isinstance(engine.stats["fake"], EngineStats)
        assert engine.states["fake"].state == "ready"


async def test_nothing_is_taken_before_the_models_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, "load_s=0.3") as engine:
        with pytest.raises(Unavailable) as refusal:
            submit(engine)
        assert refusal.value.code == "model_loading"
        assert refusal.value.retry_after_s
        assert engine.states["fake"].state == "loading"
        assert not engine.loaded
        await ready(engine)
        await submit(engine).end()


async def test_an_aborted_sequence_hears_nothing_and_frees_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, SLOW) as engine:
        await ready(engine)
        listener = Listener()
        seq_id = engine.new_seq_id()
        engine.submit(make_submit(seq_id, max_tokens=200), listener)
        await asyncio.wait_for(listener.heard.wait(), 5)
        engine.abort([seq_id])
        engine.abort([seq_id, 12345])
        heard = len(listener.calls)
        other = submit(engine)
        await other.end()
        assert len(listener.calls) == heard
        assert not listener.ends
        await _until(lambda: not engine.stats["fake"].num_used_blocks)  # with a heartbeat


async def test_a_crash_ends_every_open_sequence_once_and_a_new_child_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, SLOW) as engine:
        await ready(engine)
        first_pid = engine.pid
        assert first_pid is not None
        open_ones = [submit(engine, max_tokens=200) for _ in range(5)]
        await asyncio.wait_for(open_ones[-1].heard.wait(), 5)
        os.kill(first_pid, signal.SIGKILL)
        began = time.monotonic()
        for listener in open_ones:
            assert isinstance(await listener.end(), EngineRestarted)
        assert time.monotonic() - began < 5
        with pytest.raises(Unavailable):
            submit(engine)
        await ready(engine)
        assert engine.pid not in (None, first_pid)
        listener = submit(engine)
        assert await listener.end() == Finished(FinishReason.LENGTH)


async def test_a_request_that_ends_the_engine_twice_is_refused_and_never_run_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others that had produced nothing are run again, and are not taken for the cause."""
    async with remote_engine(monkeypatch, "num_blocks=64&crash_token=63") as engine:
        await ready(engine)
        bad = submit(engine, prompt=(63, 1))
        others = [submit(engine, prompt=(i, i)) for i in range(3)]
        assert isinstance(await bad.end(), PoisonRequest)
        assert [await each.end() for each in others] == [Finished(FinishReason.LENGTH)] * 3
        with pytest.raises(PoisonRequest):
            submit(engine, prompt=(63, 1))
        assert await submit(engine).end() == Finished(FinishReason.LENGTH)
        refusals = [r for r in caplog.records if r.message.startswith("request refused")]
        assert len(refusals) == 1
        assert "63" not in refusals[0].message
        assert len(refusals[0].hash) == 16  # type: ignore[attr-defined]


async def test_requests_that_had_produced_nothing_are_run_again_after_a_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, SLOW) as engine:
        await ready(engine)
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        waiting = [submit(engine, prompt=(i, 2), max_tokens=3) for i in range(9)]
        gone = Listener()
        gone_id = engine.new_seq_id()
        engine.submit(make_submit(gone_id, max_tokens=3), gone)
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(_until(lambda: not engine.ready.is_set()), 10)
        engine.abort([gone_id])
        for i, listener in enumerate(waiting):
            assert await listener.end() == Finished(FinishReason.LENGTH)
            assert listener.token_ids == solo_output([i, 2], 3, SamplingParams(seed=0))
        assert not gone.calls


async def test_five_crashes_end_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    fatal: list[str] = []
    async with remote_engine(
        monkeypatch, command=(sys.executable, "-c", "import sys; sys.exit(9)"),
        max_pause_s=0.01, on_fatal=fatal.append,
    ) as engine:  # fmt: skip
        await asyncio.wait_for(_until(lambda: bool(fatal)), 20)
        assert fatal == ["engine exited with code 9"]
        await asyncio.sleep(0.1)
        assert engine.pid is None


async def test_a_model_that_cannot_be_loaded_ends_the_tries_at_once_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fatal: list[str] = []
    async with remote_engine(monkeypatch, "missing=1", on_fatal=fatal.append) as engine:
        await asyncio.wait_for(_until(lambda: bool(fatal)), 20)
        assert len(fatal) == 1
        assert "config.json is missing" in fatal[0]
        assert engine.states["fake"].state == "failed"
        with pytest.raises(Unavailable):
            submit(engine)


async def test_a_model_that_may_fail_is_told_with_its_reason_and_the_others_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = ModelSource("bad", "missing=1", may_fail=True)
    async with remote_engine(monkeypatch, more_models=(bad,)) as engine:
        await ready(engine)
        assert list(engine.loaded) == ["fake"]
        assert engine.states["bad"].state == "failed"
        assert engine.states["bad"].reason == "model bad: config.json is missing"
        assert await submit(engine).end() == Finished(FinishReason.LENGTH)


async def test_a_hung_engine_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with remote_engine(
        monkeypatch, "num_blocks=64&hang_token=63", hang_s=0.4, stop_wait_s=0.5
    ) as engine:
        await ready(engine)
        hung_pid = engine.pid
        assert isinstance(await submit(engine, prompt=(63,)).end(), PoisonRequest)
        await ready(engine)
        assert engine.pid != hung_pid


async def test_the_engine_after_a_hung_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill that was meant for the hung one must not hit its successor."""
    async with remote_engine(
        monkeypatch, "num_blocks=64&hang_token=63", hang_s=0.4, stop_wait_s=1.5
    ) as engine:
        await ready(engine)
        assert isinstance(await submit(engine, prompt=(63,)).end(), PoisonRequest)
        await ready(engine)
        second_pid = engine.pid
        await asyncio.sleep(1.6)
        assert engine.pid == second_pid


async def test_a_stopped_engine_counts_as_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    async with remote_engine(monkeypatch, hang_s=0.4, stop_wait_s=0.3) as engine:
        await ready(engine)
        stopped_pid = engine.pid
        assert stopped_pid is not None
        os.kill(stopped_pid, signal.SIGSTOP)  # only SIGKILL ends a stopped process
        listener = submit(engine)
        assert await listener.end() == Finished(FinishReason.LENGTH)  # by its successor
        assert engine.pid != stopped_pid


async def test_a_long_prompt_in_chunks_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    async with remote_engine(
        monkeypatch, "num_blocks=600&step_s=0.4&max_model_len=2100", hang_s=1.2
    ) as engine:
        await ready(engine)
        pid = engine.pid
        listener = submit(engine, prompt=(1,) * 2000, max_tokens=1)  # 4 steps of 512 tokens
        assert await listener.end() == Finished(FinishReason.LENGTH)
        assert engine.pid == pid


async def test_a_long_step_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process is silent; one in a long step is not, and that is no progress either."""
    async with remote_engine(monkeypatch, "num_blocks=64&step_s=1.5", hang_s=20) as engine:
        await ready(engine)
        listener = submit(engine, max_tokens=1)
        longest = 0.0
        while not listener.ends:
            longest = max(longest, engine.silent_s)
            await asyncio.sleep(0.02)
        assert longest < 1.0  # of a heartbeat of 0.05 s


async def test_an_engine_that_sends_rubbish_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    rubbish = (
        "import socket, sys\n"
        "s = socket.socket(fileno=int(sys.argv[1]))\n"
        "s.sendall(b'HTTP/1.1 200 OK')\n"
        "s.recv(1 << 20)\n"
        "while s.recv(1 << 20): pass\n"
        "sys.exit(5)\n"
    )
    fatal: list[str] = []
    async with remote_engine(
        monkeypatch, command=(sys.executable, "-c", rubbish), max_pause_s=0.01,
        on_fatal=fatal.append,
    ):  # fmt: skip
        await asyncio.wait_for(_until(lambda: bool(fatal)), 20)
        assert fatal == ["engine exited with code 5"]


async def test_closing_ends_what_is_open_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, SLOW) as engine:
        await ready(engine)
        pid = engine.pid
        assert pid is not None
        listener = submit(engine, max_tokens=200)
        await asyncio.wait_for(listener.heard.wait(), 5)
        await engine.close()
        end = await listener.end()
        assert isinstance(end, Unavailable)
        assert end.code == "shutting_down"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_an_engine_that_ignores_the_request_to_end_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    async with remote_engine(
        monkeypatch, command=(sys.executable, "-c", deaf), stop_wait_s=0.3
    ) as engine:
        await asyncio.sleep(0.3)
        pid = engine.pid
        assert pid is not None
        began = time.monotonic()
        await engine.close()
        assert time.monotonic() - began < 20
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_pauses_between_starts_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2, 4 .. seconds, short again after a child came up. Time is not spent here."""
    pauses: list[float] = []

    async def no_wait(future: object, limit_s: float) -> None:
        future.close()  # type: ignore[attr-defined]
        pauses.append(limit_s)
        raise TimeoutError

    ends: list[tuple[int, bool]] = []
    supervisor = Supervisor(
        asyncio.Protocol,
        lambda code, last: ends.append((code, last)),
        command=(sys.executable, "-c", "import sys; sys.exit(1)"),
    )
    wait_for = asyncio.wait_for
    monkeypatch.setattr("shoal.bridge.supervisor.asyncio.wait_for", no_wait)
    await supervisor.start()
    await wait_for(_until(lambda: len(ends) == 5), 20)
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert ends == [(1, False)] * 4 + [(1, True)]
    await supervisor.stop()


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # what others write has no event
        await asyncio.sleep(0.01)
