"""Adapters over a restart: a new engine loads again what was loaded, and goes without what is
gone."""

import asyncio
import os
import signal

import pytest

from shoal.bridge.remote import RemoteEngine
from shoal.errors import ModelFolderError, ModelNotFound, Unavailable
from shoal.protocol.messages import AdapterSource
from shoal.protocol.params import SamplingParams
from tests.fakes.fake_runner import solo_output
from tests.unit.bridge.building import Listener, ready, remote_engine
from tests.unit.engine.building import make_submit


def submit(engine: RemoteEngine, adapter_id: int, max_tokens: int = 4) -> Listener:
    listener = Listener()
    message = make_submit(engine.new_seq_id(), max_tokens=max_tokens, adapter_id=adapter_id)
    engine.submit(message, listener)
    return listener


async def test_adapters_come_go_and_come_back_with_a_new_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, "step_s=0.01") as engine:
        with pytest.raises(Unavailable):
            await engine.load_adapter(AdapterSource("one", "fake", "a", 1))
        await ready(engine)
        for adapter_id in (1, 2):
            await engine.load_adapter(AdapterSource(f"{adapter_id}", "fake", "a", adapter_id))
        assert engine.adapters[2].rank == 8
        with pytest.raises(ModelFolderError, match="adapter bad: it belongs to another base"):
            await engine.load_adapter(AdapterSource("bad", "fake", "broken", 3))
        listener = submit(engine, 1)
        await listener.end()
        assert listener.token_ids == solo_output([1, 2, 3], 4, SamplingParams(seed=0), adapter_id=1)
        with pytest.raises(ModelNotFound):
            submit(engine, 3)

        running = submit(engine, 2, max_tokens=30)
        await running.heard.wait()
        unloading = asyncio.create_task(engine.unload_adapter(2))
        await asyncio.sleep(0.02)
        assert not unloading.done()
        with pytest.raises(ModelNotFound):
            submit(engine, 2)
        await running.end()
        await asyncio.wait_for(unloading, 5)
        assert len(running.token_ids) == 30

        submit(engine, 1, max_tokens=200)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        while engine.ready.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not engine.adapters
        await ready(engine)
        assert set(engine.adapters) == {1}
        again = submit(engine, 1)
        await again.end()
        assert again.token_ids == listener.token_ids


async def test_a_folder_that_broke_meanwhile_does_not_stop_the_new_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch) as engine:
        await ready(engine)
        await engine.load_adapter(AdapterSource("one", "fake", "a", 1))
        wanted = engine._adapters._wanted
        wanted[1] = AdapterSource("one", "fake", "broken", 1)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        while engine.ready.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await ready(engine)
        assert not engine.adapters
        assert "belongs to another base" in engine.failed_adapters[1]
        with pytest.raises(ModelNotFound):
            submit(engine, 1)
        await submit(engine, 0).end()
