"""Time limits as users of httpx mean them, closing, and clients that outlive their event loop."""

import asyncio
from typing import Any

import httpx
import httpx2
import pytest

from shoal.client import AsyncClient, Client, ClientClosed, Timeout, Timeouts
from shoal.client.testing import MockServer, completion_json, json_reply
from tests.client.both import Sdk, both
from tests.client.loopback import Connection, serving


async def sent_limits(sdk: Sdk, limits: Any, *, stream: bool = False) -> dict[str, Any]:
    """The limits that the HTTP library gets for a generation."""
    server = MockServer()
    for _ in range(2):
        (server.completion_stream if stream else server.completion)("x")
    client = sdk.client(server, timeout=limits)
    await sdk.do(client.completions.create("x", stream=stream))
    await sdk.do(sdk.client(server).completions.create("x", stream=stream, timeout=limits))
    of_client, of_call = (dict(seen.timeout) for seen in server.requests)
    assert of_client == of_call
    return of_call


@both
@pytest.mark.parametrize("stream", [False, True])
async def test_none_is_no_limit(sdk: Sdk, stream: bool) -> None:
    assert set((await sent_limits(sdk, None, stream=stream)).values()) == {None}
    assert set((await sent_limits(sdk, Timeouts(None), stream=stream)).values()) == {None}


@both
@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("stream", [False, True])
async def test_limits_of_httpx_limit_each_phase(sdk: Sdk, library: Any, stream: bool) -> None:
    limits = await sent_limits(sdk, library.Timeout(9.0, connect=2.0), stream=stream)
    assert limits == {"connect": 2.0, "read": 9.0, "write": 9.0, "pool": None}
    same = await sent_limits(sdk, Timeouts(9.0, connect_s=2.0), stream=stream)
    assert same == limits


def test_one_limit_is_for_each_phase_and_not_the_whole() -> None:
    assert Timeouts(10) == Timeouts(
        connect_s=10, first_byte_s=10, between_data_s=10, answer_s=10, total_s=None
    )
    assert Timeouts(10, total_s=30).total_s == 30
    with pytest.raises(ValueError, match="connect_s"):
        Timeouts(0)
    with pytest.raises(TypeError):
        Timeouts(1, 2)  # type: ignore[misc]


@both
async def test_a_plain_generation_can_have_a_limit_of_its_own(sdk: Sdk) -> None:
    server = MockServer()
    server.stall()
    client = sdk.client(server, timeout=Timeouts(10))
    with pytest.raises(Timeout) as caught:
        await sdk.do(client.completions.create("x"))
    assert (caught.value.phase, caught.value.limit_s) == ("first_byte", 10)


@both
async def test_waiting_until_ready_can_have_no_limit(sdk: Sdk) -> None:
    server = MockServer()
    for _ in range(9):
        server.health("loading")
    server.health()
    await sdk.do(sdk.client(server).wait_until_ready(None))
    assert len(server.requests) == 10
    assert set(server.requests[0].timeout.values()) == {5.0, 60.0, None}


@both
def test_the_address_is_the_first_argument_and_an_attribute(sdk: Sdk) -> None:
    client = sdk.client_type("http://models.test:9/v1/")
    assert client.base_url == "http://models.test:9"
    assert client.with_options(base_url="http://other.test").base_url == "http://other.test"
    with pytest.raises(TypeError):
        sdk.client_type("http://models.test", "key")


@both
async def test_a_closed_client_says_so(sdk: Sdk) -> None:
    client = sdk.client_type("http://127.0.0.1:1")
    copy = client.with_options(timeout=1.0)
    await sdk.do(copy.close())  # closes nothing: the connections are the client's
    await sdk.do(client.close())
    await sdk.do(client.close())
    for closed in (client, copy):
        for call in (
            lambda c: c.completions.create("x"),
            lambda c: c.completions.create("x", stream=True),
            lambda c: c.health(),
            lambda c: c.wait_until_ready(5.0),
            lambda c: c.generate_many(["x"]),
        ):
            with pytest.raises(ClientClosed, match="client was closed"):
                await sdk.do(call(closed))


@both
async def test_a_closed_http_client_says_so(sdk: Sdk) -> None:
    http_client = sdk.http_client(transport=MockServer(lambda seen: json_reply({"status": "ok"})))
    client = sdk.client_type(http_client=http_client)
    await sdk.do(client.close())
    assert (await sdk.do(client.health())).ready  # it is the user's, and open
    await sdk.do(http_client.aclose() if sdk.is_async else http_client.close())
    with pytest.raises(ClientClosed, match="http_client was closed"):
        await sdk.do(client.health())


def answer_twice(connection: Connection) -> None:
    for _ in range(2):
        connection.read_request()
        connection.send_json(b'{"id":"c","choices":[{"index":0,"text":"x"}]}')


def test_an_async_client_works_in_one_event_loop_after_another() -> None:
    with serving(answer_twice) as server:
        client = AsyncClient(server.url)

        async def ask() -> str:
            first = await client.completions.create("x")
            return first.text + (await client.completions.create("x")).text

        assert [asyncio.run(ask()) for _ in range(3)] == ["xx"] * 3
        assert len(server.connections) == 3  # one for each loop, used twice
        asyncio.run(client.close())
        with pytest.raises(ClientClosed):
            asyncio.run(ask())


def test_two_event_loops_at_once_do_not_share_connections() -> None:
    async def both_loops() -> list[str]:
        async def ask() -> str:
            return (await client.completions.create("x")).text

        mine = await ask()
        other = await asyncio.to_thread(asyncio.run, ask())
        return [mine, other, await ask()]

    with serving(answer_twice) as server:
        client = AsyncClient(server.url)
        assert asyncio.run(both_loops()) == ["x"] * 3
        assert len(server.connections) == 2


def test_a_mock_client_works_in_several_loops_too() -> None:
    server = MockServer(lambda seen: json_reply(completion_json("x")))
    client = server.async_client()

    async def ask() -> str:
        return (await client.completions.create("x")).text

    assert [asyncio.run(ask()) for _ in range(2)] == ["x", "x"]
    assert isinstance(server.client(), Client)
