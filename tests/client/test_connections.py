"""Real sockets: who closes what and when, limits, unix sockets, both HTTP libraries."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from shoal.client import Client, ConnectionFailed, StreamInterrupted, Timeout, Timeouts
from shoal.client.testing import DONE, completion_event, completion_json, event_bytes
from tests.client.both import Sdk, both
from tests.client.loopback import (
    STREAM_HEAD,
    WAIT_S,
    Connection,
    Loopback,
    serving,
    serving_on,
)

libraries = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])

COMPLETION = str(completion_json("ok")).replace("'", '"').replace("None", "null").encode()


def begin_stream(connection: Connection) -> None:
    """One chunk of a stream, then silence until the client goes away."""
    connection.read_request()
    connection.send(STREAM_HEAD)
    connection.send_chunk(event_bytes(completion_event("a")))
    connection.wait_until_closed()


def answer_all(connection: Connection) -> None:
    """Whole streams and plain answers for as long as the client keeps asking."""
    while request := connection.read_request():
        if b'"stream":true' not in request:
            connection.send_json(COMPLETION)
            continue
        connection.send(STREAM_HEAD)
        connection.send_chunk(event_bytes(completion_event("a", finish_reason="stop")))
        connection.send_chunk(DONE)
        connection.send_chunk(b"")


NewClient = Callable[..., Any]


@pytest.fixture
async def new_client() -> AsyncIterator[NewClient]:
    """Makes clients of a server, and closes them after the test."""
    made: list[tuple[Sdk, Any, Any]] = []

    def make(sdk: Sdk, server: Loopback, library: ModuleType = httpx, **settings: Any) -> Any:
        http_client = None if library is httpx else sdk.http_client(library)
        client = sdk.client_type(
            base_url=server.url, max_retries=0, http_client=http_client, **settings
        )
        made.append((sdk, client, http_client))
        return client

    yield make
    for sdk, client, http_client in made:
        await sdk.do(client.close())
        if http_client is not None:
            await sdk.do(http_client.aclose() if sdk.is_async else http_client.close())


def first_connection_closed(server: Loopback) -> bool:
    return server.connections[0].closed_by_peer.wait(WAIT_S)


async def closed_soon(server: Loopback) -> bool:
    """Waits beside the loop, which may have closing to do."""
    return await asyncio.to_thread(first_connection_closed, server)


@both
@libraries
async def test_closing_a_stream_closes_its_connection(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(begin_stream) as server:
        client = new_client(sdk, server, library)
        stream = await sdk.do(client.completions.create("x", stream=True))
        await sdk.next(stream)
        await sdk.do(stream.close())
        assert await closed_soon(server)
        await sdk.do(client.close())


@both
@libraries
async def test_breaking_out_of_a_stream_closes_its_connection(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(begin_stream) as server:
        client = new_client(sdk, server, library)
        stream = await sdk.do(client.completions.create("x", stream=True))
        if sdk.is_async:
            async for _ in stream:
                break
        else:
            for _ in stream:
                break
        assert await closed_soon(server)
        assert stream.closed


@both
async def test_breaking_out_of_text_deltas_closes_the_connection(
    sdk: Sdk, new_client: NewClient
) -> None:
    with serving(begin_stream) as server:
        client = new_client(sdk, server)
        stream = await sdk.do(client.completions.create("x", stream=True))
        if sdk.is_async:
            async for _ in stream.text_deltas():
                break
        else:
            for _ in stream.text_deltas():
                break
        assert await closed_soon(server)


@both
@libraries
async def test_forgetting_a_stream_closes_its_connection(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(begin_stream) as server:
        client = new_client(sdk, server, library)
        stream = await sdk.do(client.completions.create("x", stream=True))
        await sdk.next(stream)
        del stream
        gc.collect()
        assert await closed_soon(server)


@both
async def test_a_forgotten_stream_gives_its_place_in_the_pool_back(sdk: Sdk) -> None:
    with serving(begin_stream) as server:
        limits = httpx.Limits(max_connections=1)
        http_client = sdk.http_client(limits=limits)
        client = sdk.client_type(base_url=server.url, http_client=http_client, timeout=WAIT_S)
        for _ in range(3):
            stream = await sdk.do(client.completions.create("x", stream=True))
            await sdk.next(stream)
            del stream
        assert len(server.connections) == 3


async def test_cancelling_a_task_closes_its_streams_connection(new_client: NewClient) -> None:
    async def read_all(client: Any) -> None:
        stream = await client.completions.create("x", stream=True)
        async for _ in stream:
            reading.set()

    reading = asyncio.Event()
    with serving(begin_stream) as server:
        client = new_client(Sdk(is_async=True), server)
        task = asyncio.create_task(read_all(client))
        await asyncio.wait_for(reading.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await closed_soon(server)


async def test_cancelling_a_plain_call_closes_its_connection(new_client: NewClient) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        got_it.set()
        connection.wait_until_closed()

    got_it = threading.Event()
    with serving(script) as server:
        client = new_client(Sdk(is_async=True), server)
        task = asyncio.create_task(client.completions.create("x"))
        assert await asyncio.to_thread(got_it.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await closed_soon(server)


async def test_closing_from_another_task_ends_the_reading_one(new_client: NewClient) -> None:
    with serving(begin_stream) as server:
        client = new_client(Sdk(is_async=True), server)
        stream = await client.completions.create("x", stream=True)
        await anext(stream)
        reader = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0.05)  # the reader is waiting for bytes by then
        await stream.close()
        assert await asyncio.wait_for(reader, WAIT_S) is None
        assert await closed_soon(server)


@libraries
def test_closing_from_another_thread_ends_the_reading_one(
    library: ModuleType, new_client: NewClient
) -> None:
    with serving(begin_stream) as server:
        client = new_client(Sdk(is_async=False), server, library)
        stream = client.completions.create("x", stream=True)
        next(stream)
        timer = threading.Timer(0.05, stream.close)
        timer.start()
        started = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - started < WAIT_S / 2
        timer.join()
        assert first_connection_closed(server)


@both
@libraries
async def test_whole_streams_and_answers_leave_the_connection_usable(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(answer_all) as server:
        client = new_client(sdk, server, library)
        for _ in range(2):
            stream = await sdk.do(client.completions.create("x", stream=True))
            assert (await sdk.do(stream.final())).text == "a"
            assert (await sdk.do(client.completions.create("x"))).text == "ok"
        assert len(server.connections) == 1


@both
@libraries
async def test_a_connection_cut_in_a_stream_interrupts_it(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(STREAM_HEAD)
        connection.send_chunk(event_bytes(completion_event("a")))
        connection.send(b"ff\r\ndata: {")

    with serving(script) as server:
        stream = await sdk.do(new_client(sdk, server, library).completions.create("x", stream=True))
        with pytest.raises(StreamInterrupted) as caught:
            await sdk.do(stream.final())
        assert (caught.value.text, caught.value.request_id) == ("a", "from-server")


@both
@libraries
async def test_nobody_listening_is_a_failed_connection(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(answer_all) as server:
        client = new_client(sdk, server, library)
    with pytest.raises(ConnectionFailed, match=r"connection to http://127\.0\.0\.1"):
        await sdk.do(client.completions.create("x"))


@both
@libraries
async def test_a_server_that_hangs_up_at_once_is_a_failed_connection(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(lambda connection: None) as server, pytest.raises(ConnectionFailed):
        await sdk.do(new_client(sdk, server, library).health())


@both
@libraries
async def test_silence_after_the_first_chunk_has_its_own_limit(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    with serving(begin_stream) as server:
        client = new_client(sdk, server, library, timeout=Timeouts(between_data_s=0.1))
        stream = await sdk.do(client.completions.create("x", stream=True))
        await sdk.next(stream)
        started = time.monotonic()
        with pytest.raises(Timeout) as caught:
            await sdk.next(stream)
        assert (caught.value.phase, caught.value.limit_s) == ("between_data", 0.1)
        assert time.monotonic() - started < WAIT_S / 2


@both
@libraries
async def test_the_first_byte_has_its_own_limit(
    sdk: Sdk, library: ModuleType, new_client: NewClient
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.wait_until_closed()

    with serving(script) as server:
        client = new_client(sdk, server, library, timeout=Timeouts(first_byte_s=0.1))
        with pytest.raises(Timeout) as plain:
            await sdk.do(client.health())
        with pytest.raises(Timeout) as streamed:
            await sdk.do(client.completions.create("x", stream=True))
        for caught in (plain, streamed):
            assert (caught.value.phase, caught.value.limit_s) == ("first_byte", 0.1)


@both
async def test_a_plain_generation_has_the_total_time_to_begin(
    sdk: Sdk, new_client: NewClient
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        time.sleep(1.0)
        connection.send_json(COMPLETION)

    with serving(script) as server:
        limits = Timeouts(first_byte_s=0.05)
        client = new_client(sdk, server, timeout=limits)
        assert (await sdk.do(client.completions.create("x"))).text == "ok"
        client = new_client(sdk, server, timeout=limits)  # the server closed that connection
        with pytest.raises(Timeout) as caught:
            await sdk.do(client.completions.create("x", timeout=0.5))
        assert caught.value.phase == "total"


@both
async def test_a_unix_socket_serves_as_well(sdk: Sdk, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving_on(path, answer_all):
        client = sdk.client_type(uds=str(path))
        assert (await sdk.do(client.completions.create("x"))).text == "ok"
        copy = client.with_options(max_retries=0)
        assert (await sdk.do(copy.completions.create("x"))).text == "ok"
        await sdk.do(client.close())


@both
async def test_a_proxy_of_the_environment_does_not_see_local_calls(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch, new_client: NewClient
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(answer_all) as server:
        assert (await sdk.do(new_client(sdk, server).completions.create("x"))).text == "ok"
        # A copy for another host has connections of its own, which do use the proxy.
        copy = new_client(sdk, server).with_options(base_url="http://shoal.invalid")
        with pytest.raises(ConnectionFailed):
            await sdk.do(copy.completions.create("x"))


@both
async def test_closing_a_client_ends_its_connections_and_not_its_parents(
    sdk: Sdk, new_client: NewClient
) -> None:
    def script(connection: Connection) -> None:
        answer_all(connection)
        connection.closed_by_peer.set()

    with serving(script) as server:
        client = new_client(sdk, server)
        copy = client.with_options(timeout=5.0)
        await sdk.do(copy.completions.create("x"))
        await sdk.do(copy.close())
        await sdk.do(client.completions.create("x"))
        assert len(server.connections) == 1
        assert not server.connections[0].closed_by_peer.is_set()
        await sdk.do(client.close())
        assert await closed_soon(server)


@both
async def test_a_client_from_outside_is_not_closed(sdk: Sdk) -> None:
    with serving(answer_all) as server:
        http_client = sdk.http_client()
        for _ in range(2):
            client = sdk.client_type(base_url=server.url, http_client=http_client)
            await sdk.do(client.completions.create("x"))
            await sdk.do(client.close())
        await sdk.do(http_client.aclose() if sdk.is_async else http_client.close())


def test_threads_may_share_a_client() -> None:
    with serving(answer_all) as server, Client(base_url=server.url) as client:
        results = client.generate_many(["x"] * 20, concurrency=5)
        assert [result.text for result in results] == ["ok"] * 20
        assert len(server.connections) <= 5
