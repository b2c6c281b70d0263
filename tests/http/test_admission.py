"""The queue: a place before any work, 503 and 429 with an honest Retry-After, and nothing left
behind on any way out."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import Unavailable
from tests.fakes.http_app import Served
from tests.http.building import (
    AsgiCall,
    Gate,
    nothing_left,
    refused,
    serve_script,
    settle,
)

BODY = {"prompt": "x", "max_tokens": 4}


def full(served: Served, num: int, **fields: Any) -> list[AsgiCall]:
    return [AsgiCall(served, "/v1/completions", {**BODY, **fields}) for _ in range(num)]


def wait_of(headers: Any) -> None:
    """A whole second from 1 to 120, and the exact wait in milliseconds."""
    assert 1 <= int(headers["retry-after"]) <= 120
    assert 0 < int(headers["retry-after-ms"]) <= 120_000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_503_before_any_tokenizing(tmp_path: Path, stream: bool) -> None:
    async with serve_script(tmp_path, "ab", max_batch_size=2, max_queue=3) as (served, _):
        gate = Gate(served)
        inside = full(served, 5)
        await settle()
        tokenizer: Any = served.services.models["tiny"].tokenizer
        tokenizer.encode = tokenizer.encode_rendered = None  # nobody may call these now
        for response in (
            await served.complete(stream=stream),
            await served.chat(stream=stream),
        ):
            refused(response, 503, "server_is_overloaded")
            assert response.json()["error"]["type"] == "service_unavailable_error"
            wait_of(response.headers)
        await gate.open()
        await asyncio.gather(*(call.task for call in inside))
        assert [call.answer.status for call in inside] == [200] * 5
        nothing_left(served)


async def test_after_a_refusal_those_that_follow_are_refused_before_they_are_validated(
    tmp_path: Path,
) -> None:
    async with serve_script(
        tmp_path, "ab", names=("a", "b"), max_batch_size=1, max_queue=1, log_level="info"
    ) as (served, _):
        gate = Gate(served)
        inside = full(served, 2, model="a")
        await settle()
        refused(await served.complete(model="a"), 503, "server_is_overloaded")
        for path, error in (
            ("/v1/completions", "server_is_overloaded"),
            ("/v1/chat/completions", "server_is_overloaded"),
            ("/v1/responses", "server_is_overloaded"),
        ):
            response = await served.client.post(path, json={"model": "a", "top_p": 7})
            refused(response, 503, error)
            wait_of(response.headers)
        response = await served.client.post("/v1/messages", json={"model": "a"})
        assert response.json()["error"]["type"] == "overloaded_error"
        # Whatever is not plainly one of those goes its way.
        refused(await served.complete(model="b", top_p=7), 400, "invalid_value", "top_p")
        refused(await served.complete(model="zoo"), 404, "model_not_found", "model")
        response = await served.client.post(
            "/v1/completions", content=b"{", headers={"content-type": "application/json"}
        )
        refused(response, 400, "invalid_json")
        other = AsgiCall(served, "/v1/completions", {**BODY, "model": "b"})
        rejected = served.services.metrics.rejected.labels("a", "server_is_overloaded")
        assert rejected._value.get() == 5
        await gate.open()
        await asyncio.gather(other.task, *(call.task for call in inside))
        assert [call.answer.status for call in (other, *inside)] == [200] * 3
        nothing_left(served)


async def test_a_burst_gets_as_many_places_as_there_are(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", max_batch_size=4, max_queue=4) as (served, _):
        gate = Gate(served)
        tokenizer: Any = served.services.models["tiny"].tokenizer
        encode, num_encoded = tokenizer.encode, []
        tokenizer.encode = lambda *a, **k: (num_encoded.append(1), encode(*a, **k))[1]
        calls = full(served, 100)
        await settle(200)
        assert len(num_encoded) == 8
        await gate.open()
        await asyncio.gather(*(call.task for call in calls))
        statuses = [call.answer.status for call in calls]
        assert (statuses.count(200), statuses.count(503)) == (8, 92)
        nothing_left(served)


async def test_every_sequence_of_a_request_takes_a_place(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", max_batch_size=4, max_queue=4) as (served, _):
        gate = Gate(served)
        (first,) = full(served, 1, n=2, prompt=["a", "b", "c"])  # 6 of 8
        await settle()
        refused(await served.complete(n=3), 503, "server_is_overloaded")
        (second,) = full(served, 1, n=2)
        await settle()
        refused(await served.complete(), 503, "server_is_overloaded")
        await gate.open()
        await asyncio.gather(first.task, second.task)
        nothing_left(served)


async def test_a_request_larger_than_the_queue_is_served_when_nothing_else_is(
    tmp_path: Path,
) -> None:
    """Or it would be told to come back for ever."""
    async with serve_script(tmp_path, "ab", max_batch_size=2, max_queue=1) as (served, _):
        response = await served.complete(["a", "b", "c"], n=4)
        assert response.status_code == 200
        assert len(response.json()["choices"]) == 12
        nothing_left(served)


async def test_a_full_model_does_not_close_another(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", names=("a", "b"), max_batch_size=1, max_queue=0) as (
        served,
        _,
    ):
        gate = Gate(served)
        (busy,) = full(served, 1, model="a")
        await settle()
        refused(await served.complete(model="a"), 503, "server_is_overloaded")
        other = AsgiCall(served, "/v1/completions", {**BODY, "model": "b"})
        await gate.open()
        await asyncio.gather(busy.task, other.task)
        assert other.answer.status == 200
        nothing_left(served)


async def test_too_many_waiting_tokens_are_503(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", max_queue_tokens=50) as (served, _):
        gate = Gate(served)
        (first,) = full(served, 1, prompt="x" * 60)  # an empty queue takes any prompt that fits
        await settle()
        response = await served.complete("x")
        refused(response, 503, "server_is_overloaded")
        wait_of(response.headers)
        await gate.open()
        await first.task
        assert first.answer.status == 200
        nothing_left(served)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tenants_own_limit_is_429_and_others_are_served(
    tmp_path: Path, stream: bool
) -> None:
    keys = ["ann:key-a", "bob:key-b"]
    async with serve_script(tmp_path, "ab", api_keys=keys, tenant_max_queue=2) as (served, _):
        gate = Gate(served)
        anns = [AsgiCall(served, "/v1/completions", BODY, {"x-api-key": "key-a"}) for _ in range(2)]
        await settle()
        response = await served.client.post(
            "/v1/completions", json={**BODY, "stream": stream}, headers={"x-api-key": "key-a"}
        )
        refused(response, 429, "tenant_queue_full")
        assert response.json()["error"]["type"] == "rate_limit_error"
        wait_of(response.headers)
        assert response.headers["x-ratelimit-limit-requests"] == "2"
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        bob = AsgiCall(served, "/v1/completions", BODY, {"x-api-key": "key-b"})
        await gate.open()
        await asyncio.gather(bob.task, *(call.task for call in anns))
        assert bob.answer.status == 200
        nothing_left(served)


async def test_more_than_the_tenants_limit_in_one_request_is_refused_for_good(
    tmp_path: Path,
) -> None:
    async with serve_script(tmp_path, "ab", tenant_max_queue=2) as (served, _):
        refused(await served.complete(n=3), 400, "invalid_value", "n")
        nothing_left(served)


@pytest.mark.parametrize(
    "fields",
    [
        {"top_p": 7}, {"model": "nope"}, {"prompt": [999]}, {"max_tokens": 10**6}, {"suffix": "x"},
        {"strict": True, "zoo": 1}, {"min_tokens": 9, "max_tokens": 3}, {"n": 17}, {},
        {"stop_token_ids": [999]}, {"logit_bias": {"999": 1}}, {"prompt": "x" * 20_000},
    ],
)  # fmt: skip
async def test_places_come_back_after_every_refusal(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with serve_script(tmp_path, "ab", max_batch_size=1, max_queue=0) as (served, _):
        for _ in range(3):
            await served.complete(**fields)
        nothing_left(served)
        assert (await served.complete()).status_code == 200


async def test_places_come_back_when_the_engine_takes_no_more(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        engine: Any = served.services.client
        submit, taken = engine.submit, []

        def third_fails(message: Any, sink: Any) -> None:
            if len(taken) == 2:
                raise Unavailable("loading", code="model_loading", retry_after_s=2.0)
            taken.append(message.seq_id)
            submit(message, sink)

        engine.submit = third_fails
        response = await served.complete(n=4)
        refused(response, 503, "model_loading")
        wait_of(response.headers)
        await settle()
        nothing_left(served)


async def test_places_come_back_after_a_mistake_of_ours(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        engine: Any = served.services.client
        submit, taken = engine.submit, []

        def third_breaks(message: Any, sink: Any) -> None:
            if len(taken) == 2:
                raise OverflowError("a number too large for a frame")
            taken.append(message.seq_id)
            submit(message, sink)

        engine.submit = third_breaks
        refused(await served.complete(n=4), 500, "internal_error")
        await settle()
        nothing_left(served)


async def test_a_model_that_is_loading_is_503_with_a_wait(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        engine: Any = served.services.client
        engine._loaded = {}
        served.services.client = _Loading(engine)
        for response in (await served.complete(), await served.chat(stream=True)):
            refused(response, 503, "model_loading")
            wait_of(response.headers)
        nothing_left(served)


class _Loading:
    """An engine whose model is not there yet."""

    def __init__(self, engine: Any) -> None:
        from shoal.bridge.engine_client import ModelState

        self.states = {"tiny": ModelState("loading", 0.4)}
        self.loaded: dict[str, Any] = {}
        self.stats = engine.stats
        self.silent_s = 0.0
