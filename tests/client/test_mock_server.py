"""The mock server as its users see it: every route, streams, faults, a record of requests."""

from typing import Any

import pytest

from shoal.client import (
    ConnectionFailed,
    Overloaded,
    RateLimited,
    ResponseInvalid,
    StreamInterrupted,
    Timeout,
)
from shoal.client.testing import (
    PING,
    MockServer,
    Pause,
    SeenRequest,
    answer_anything,
    completion_event,
)
from tests.client.both import MESSAGES, Sdk, both

EVERY_CALL: list[Any] = [
    lambda c: c.completions.create("x"),
    lambda c: c.completions.create("x", stream=True),
    lambda c: c.chat.create(MESSAGES),
    lambda c: c.chat.create(MESSAGES, stream=True),
    lambda c: c.models.list(),
    lambda c: c.models.retrieve("a/b"),
    lambda c: c.tokenize("x"),
    lambda c: c.detokenize([1]),
    lambda c: c.score_choices("x", ["a", "b"]),
    lambda c: c.perplexity("x"),
    lambda c: c.embeddings.create("x"),
    lambda c: c.usage(),
    lambda c: c.cancel("r"),
    lambda c: c.health(),
    lambda c: c.wait_until_ready(1.0),
    lambda c: c.version(),
    lambda c: c.load(),
    lambda c: c.metrics(),
    lambda c: c.admin.lora.load("a", "p"),
    lambda c: c.admin.lora.unload("a"),
    lambda c: c.admin.models.load("a", "p"),
    lambda c: c.admin.models.unload("a"),
    lambda c: c.admin.cache.reset(),
    lambda c: c.admin.drain(),
    lambda c: c.generate_many(["x", "y"]),
]


@both
async def test_answer_anything_answers_every_call(sdk: Sdk) -> None:
    server = MockServer(answer_anything)
    client = sdk.client(server)
    for call in EVERY_CALL:
        result = await sdk.do(call(client))
        if hasattr(result, "final"):
            assert (await sdk.do(result.final())).text == "Hello!"
    assert (await sdk.do(client.embeddings.create(["x", "y"]))).data[1].embedding == [1.0, 0.0]
    assert len((await sdk.do(client.embeddings.create([1, 2, 3]))).data) == 1
    assert answer_anything(SeenRequest("GET", "/nowhere", {})).status == 404


@both
async def test_canned_replies_come_before_the_answers_to_anything(sdk: Sdk) -> None:
    server = MockServer(answer_anything)
    server.chat("mine")
    client = sdk.client(server)
    assert (await sdk.do(client.chat.create(MESSAGES))).text == "mine"
    assert (await sdk.do(client.chat.create(MESSAGES))).text == "Hello!"


@both
async def test_a_server_without_a_reply_fails_the_test(sdk: Sdk) -> None:
    with pytest.raises(AssertionError, match=r"POST /v1/completions: .* no reply left"):
        await sdk.do(sdk.client(MockServer()).completions.create("x"))


@both
async def test_limits_are_waited_for_without_waiting(sdk: Sdk) -> None:
    server = MockServer()
    server.rate_limited(retry_after=7)
    server.overloaded(retry_after=2)
    server.completion("x")
    assert (await sdk.do(sdk.client(server).completions.create("x"))).text == "x"
    assert server.clock.sleeps == [7.0, 2.0]
    server.rate_limited()
    server.overloaded()
    client = sdk.client(server, max_retries=0)
    with pytest.raises(RateLimited) as limited:
        await sdk.do(client.completions.create("x"))
    assert limited.value.retry_after == 1.0
    with pytest.raises(Overloaded):
        await sdk.do(client.completions.create("x"))


@both
async def test_faults_become_the_errors_of_the_sdk(sdk: Sdk) -> None:
    server = MockServer()
    client = sdk.client(server, max_retries=0)
    for fault, error in (
        (server.drop, ConnectionFailed),
        (server.stall, Timeout),
        (server.garbage, ResponseInvalid),
    ):
        fault()
        with pytest.raises(error):
            await sdk.do(client.completions.create("x"))
    for fault, error in ((server.drop, StreamInterrupted), (server.stall, Timeout)):
        fault(completion_event("be"))
        stream = await sdk.do(client.completions.create("x", stream=True))
        with pytest.raises(error):
            await sdk.all(stream)
        assert stream.text == "be"


@both
async def test_silence_costs_no_real_time(sdk: Sdk) -> None:
    server = MockServer()
    server.stream(completion_event("a"), Pause(100.0), PING, completion_event("b"))
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    with pytest.raises(Timeout) as caught:
        await sdk.all(stream)
    assert caught.value.phase == "between_data"


@both
async def test_other_states_of_health(sdk: Sdk) -> None:
    server = MockServer()
    server.health("loading")
    server.health()
    server.tokens(1, 2)
    server.text("hi")
    client = sdk.client(server)
    await sdk.do(client.wait_until_ready(5.0))
    assert len(server.clock.sleeps) == 1
    assert (await sdk.do(client.tokenize("x"))).tokens == [1, 2]
    assert (await sdk.do(client.detokenize([1]))).prompt == "hi"
