"""Streams that end early: limits, closing, being forgotten."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from shoal.client import StreamInterrupted, Timeout, Timeouts
from shoal.client.testing import DONE, PING, Fault, MockServer, Pause, completion_event
from tests.client.both import Sdk, both, open_stream

STREAMS = Path(__file__).parent / "streams"


@both
async def test_pings_do_not_count_as_data(sdk: Sdk) -> None:
    pings = [part for _ in range(7) for part in (Pause(10.0), PING)]
    stream = await open_stream(sdk, completion_event("a"), *pings, completion_event("b"), DONE)
    assert (await sdk.next(stream)).text_of(0) == "a"
    with pytest.raises(Timeout) as caught:
        await sdk.next(stream)
    assert (caught.value.phase, caught.value.limit_s) == ("between_data", 60.0)
    assert stream.closed


@both
async def test_data_in_time_keeps_a_stream_open(sdk: Sdk) -> None:
    slow = [part for n in range(9) for part in (Pause(29.0), PING, Pause(30.0),
                                                completion_event(str(n)))]  # fmt: skip
    stream = await open_stream(sdk, *slow, DONE)
    assert (await sdk.do(stream.final())).text == "012345678"


@both
async def test_a_stream_ends_with_the_total_time(sdk: Sdk) -> None:
    steady = [part for _ in range(99) for part in (Pause(10.0), completion_event("a"))]
    stream = await open_stream(sdk, *steady, limits=Timeouts(total_s=105.0))
    with pytest.raises(Timeout) as caught:
        await sdk.all(stream)
    assert caught.value.phase == "total"
    assert len(stream.text) == 11  # what had arrived by then is not withheld


@both
async def test_time_the_caller_takes_is_not_the_servers(sdk: Sdk) -> None:
    server = MockServer()
    server.stream(completion_event("a"), PING, completion_event("b", finish_reason="stop"), DONE)
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    await sdk.next(stream)
    server.clock.advance(300.0)
    assert (await sdk.do(stream.final())).text == "ab"


@both
async def test_a_silent_stream_times_out(sdk: Sdk) -> None:
    stream = await open_stream(sdk, completion_event("a"), Fault.READ_TIMEOUT)
    with pytest.raises(Timeout) as caught:
        await sdk.do(stream.final())
    assert caught.value.phase == "between_data"


@both
async def test_a_closed_stream_has_no_whole_result(sdk: Sdk) -> None:
    stream = await open_stream(sdk, completion_event("a"), completion_event("b"), DONE)
    await sdk.next(stream)
    await sdk.do(stream.close())
    await sdk.do(stream.close())
    assert await sdk.all(stream) == []
    with pytest.raises(StreamInterrupted) as caught:
        await sdk.do(stream.final())
    assert caught.value.text == "a"


@both
async def test_final_after_some_chunks_still_has_everything(sdk: Sdk) -> None:
    stream = await open_stream(sdk, (STREAMS / "completion.sse").read_bytes())
    await sdk.next(stream)
    assert (await sdk.do(stream.final())).text == " blue è\r\n🐟"
    assert (await sdk.do(stream.final())).text == " blue è\r\n🐟"


@both
async def test_an_error_of_the_callers_own_does_not_leave_a_stream_open(sdk: Sdk) -> None:
    server = MockServer()
    server.completion_stream("a", "b")
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    with pytest.raises(KeyError, match="mine"):
        await _fail_inside(stream, sdk.is_async)
    assert server.requests[0].closed


@both
async def test_a_forgotten_stream_is_closed(sdk: Sdk) -> None:
    server = MockServer()
    server.completion_stream("a", "b")
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    await sdk.next(stream)
    del stream
    gc.collect()
    assert await asyncio.to_thread(server.requests[0].closing.wait, 10.0)


def test_a_forgotten_stream_is_not_closed_by_the_collector_itself() -> None:
    class Noting(threading.Event):
        """Notes which thread sets it."""

        def set(self) -> None:
            setters.append(threading.get_ident())
            super().set()

    setters: list[int] = []
    server = MockServer()
    server.completion_stream("a", "b")
    stream = server.client().completions.create("x", stream=True)
    server.requests[0].closing = Noting()
    next(stream)
    del stream
    assert server.requests[0].closing.wait(10.0)
    assert threading.get_ident() not in setters


async def _fail_inside(stream: Any, is_async: bool) -> None:
    if is_async:
        async with stream:
            raise KeyError("mine")
    else:
        with stream:
            raise KeyError("mine")
