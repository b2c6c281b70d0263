"""Many prompts at once: order, concurrency, progress, errors."""

import asyncio
import threading
import time
from typing import Any

import pytest

from shoal.client import AsyncClient, Client, Completion, Overloaded, StatusError
from shoal.client.testing import Canned, MockServer, SeenRequest, completion_json, json_reply
from tests.client.both import Sdk, both
from tests.client.loopback import Connection, serving

PROMPTS = [f"p{number}" for number in range(20)]


def echo(seen: SeenRequest) -> Canned:
    """The prompt as the completion; prompts that begin with "bad" are errors."""
    prompt = str(seen.json["prompt"])
    if prompt.startswith("bad"):
        return json_reply({"error": {"message": prompt}}, status=400)
    return json_reply(completion_json(prompt))


@both
@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_results_are_in_the_order_of_the_prompts(sdk: Sdk, concurrency: int) -> None:
    client = sdk.client(MockServer(echo))
    results = await sdk.do(client.generate_many(iter(PROMPTS), concurrency=concurrency))
    assert [result.text for result in results] == PROMPTS


@both
async def test_each_prompt_is_a_request_with_the_same_arguments(sdk: Sdk) -> None:
    server = MockServer(echo)
    await sdk.do(sdk.client(server).generate_many(["a", [1, 2]], model="m", max_tokens=4, seed=1))
    sent = sorted((seen.json for seen in server.requests), key=str)
    same = {"model": "m", "max_tokens": 4, "seed": 1}
    assert sent == sorted([{**same, "prompt": "a"}, {**same, "prompt": [1, 2]}], key=str)
    assert len({seen.headers["x-request-id"] for seen in server.requests}) == 2


@both
async def test_many_answers_are_not_streamed(sdk: Sdk) -> None:
    server = MockServer(echo)
    with pytest.raises(TypeError, match="stream"):
        await sdk.do(sdk.client(server).generate_many(["a"], stream=True))
    assert server.requests == []


@both
async def test_no_prompts_give_no_results(sdk: Sdk) -> None:
    assert await sdk.do(sdk.client(MockServer()).generate_many([])) == []


@both
async def test_progress_counts_up_in_the_callers_thread(sdk: Sdk) -> None:
    seen: list[tuple[int, int]] = []
    threads: set[int] = set()

    def note(done: int, total: int) -> None:
        seen.append((done, total))
        threads.add(threading.get_ident())

    client = sdk.client(MockServer(echo))
    await sdk.do(client.generate_many(PROMPTS, concurrency=4, on_progress=note))
    assert seen == [(done, 20) for done in range(1, 21)]
    assert threads == {threading.get_ident()}


@both
async def test_the_first_error_ends_it(sdk: Sdk) -> None:
    server = MockServer(echo)
    prompts = ["bad", *PROMPTS * 10]
    with pytest.raises(StatusError, match="bad"):
        await sdk.do(sdk.client(server).generate_many(prompts, concurrency=2))
    assert len(server.requests) < len(prompts)


@both
async def test_kept_errors_stand_in_their_places(sdk: Sdk) -> None:
    client = sdk.client(MockServer(echo))
    results = await sdk.do(
        client.generate_many(["a", "bad 1", "b", "bad 2"], concurrency=2, keep_errors=True)
    )
    kinds = [type(result) for result in results]
    assert kinds[0] is kinds[2] is Completion
    assert [results[place].message for place in (1, 3)] == ["bad 1", "bad 2"]


@both
async def test_an_error_in_the_callback_ends_it(sdk: Sdk) -> None:
    def refuse(done: int, total: int) -> None:
        raise KeyError("mine")

    server = MockServer(echo)
    with pytest.raises(KeyError, match="mine"):
        await sdk.do(
            sdk.client(server).generate_many(PROMPTS * 10, concurrency=2, on_progress=refuse)
        )
    assert len(server.requests) < 200


@both
async def test_overload_is_waited_out(sdk: Sdk) -> None:
    server = MockServer(echo)
    for _ in range(2):
        server.error(503, "server_is_overloaded", headers={"retry-after-ms": "100"})
    results = await sdk.do(sdk.client(server).generate_many(PROMPTS, concurrency=1))
    assert [result.text for result in results] == PROMPTS
    assert server.clock.sleeps == [0.1, 0.1]
    for _ in range(3):
        server.error(503, "server_is_overloaded", headers={"retry-after-ms": "100"})
    with pytest.raises(Overloaded):
        await sdk.do(sdk.client(server).generate_many(["a"]))


@both
@pytest.mark.parametrize("concurrency", [0, -1])
async def test_concurrency_is_at_least_one(sdk: Sdk, concurrency: int) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        await sdk.do(sdk.client(MockServer()).generate_many(["a"], concurrency=concurrency))


class Meter:
    """A server script that counts how many requests it has at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        while connection.read_request():
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(0.03)
            with self._lock:
                self._now -= 1
            connection.send_json(b'{"id":"c","choices":[]}')


@both
async def test_concurrency_is_reached_and_not_passed(sdk: Sdk) -> None:
    meter = Meter()
    with serving(meter) as server:
        client = sdk.client_type(base_url=server.url)
        await sdk.do(client.generate_many(["x"] * 16, concurrency=4))
        await sdk.do(client.close())
    assert meter.most == 4


async def test_cancelling_ends_the_running_requests() -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        arrived.release()
        connection.wait_until_closed()

    arrived = threading.Semaphore(0)
    with serving(script) as server:
        client = AsyncClient(base_url=server.url)
        task = asyncio.create_task(client.generate_many(["x"] * 9, concurrency=3))
        for _ in range(3):
            assert await asyncio.to_thread(arrived.acquire, timeout=10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for connection in server.connections:
            assert await asyncio.to_thread(connection.closed_by_peer.wait, 10)
        assert len(server.connections) == 3


def test_threads_end_with_the_call() -> None:
    before: Any = threading.active_count()
    client: Client = MockServer(echo).client()
    client.generate_many(PROMPTS, concurrency=8)
    assert threading.active_count() == before


@both
async def test_an_error_brings_what_was_done_so_that_one_can_go_on(sdk: Sdk) -> None:
    client = sdk.client(MockServer(echo))
    prompts = [*PROMPTS[:5], "bad", *PROMPTS[5:]]
    with pytest.raises(StatusError) as caught:
        await sdk.do(client.generate_many(prompts, concurrency=1))
    done = caught.value.completed
    assert {index: result.text for index, result in done.items()} == dict(enumerate(PROMPTS[:5]))
    rest = [prompt for index, prompt in enumerate(prompts) if index not in done][1:]
    assert len(await sdk.do(client.generate_many(rest))) == 15


def test_calls_that_run_beside_a_failing_one_are_not_lost() -> None:
    failed = threading.Event()

    def answer(seen: SeenRequest) -> Canned:
        if seen.json["prompt"] == "bad":
            failed.set()
        else:
            assert failed.wait(10)
            time.sleep(0.05)  # the error arrives first
        return echo(seen)

    with pytest.raises(StatusError) as caught:
        MockServer(answer).client().generate_many(["a", "bad", "b"], concurrency=3)
    assert {index: result.text for index, result in caught.value.completed.items()} == {
        0: "a", 2: "b"
    }  # fmt: skip
