"""Calls and what they return: paths, bodies, typed results, what comes with them."""

import inspect
import math
import warnings
from typing import Any

import httpx
import pytest

from shoal.client import NotFound, ResponseInvalid, Unavailable
from shoal.client.testing import (
    DONE,
    Canned,
    MockServer,
    chat_json,
    completion_json,
    json_reply,
)
from tests.client.both import Sdk, both

MESSAGES = [{"role": "user", "content": "Hi"}]


@both
@pytest.mark.parametrize(
    ("call", "method", "path", "body", "reply"),
    [
        (lambda c: c.completions.create("x"), "POST", "/v1/completions", {"prompt": "x"},
         completion_json("a")),
        (lambda c: c.completions.create(prompt=[[1], [2]], model="m", max_tokens=3, stop=None),
         "POST", "/v1/completions", {"prompt": [[1], [2]], "model": "m", "max_tokens": 3},
         completion_json("a")),
        (lambda c: c.chat.create(MESSAGES, temperature=0.0), "POST", "/v1/chat/completions",
         {"messages": MESSAGES, "temperature": 0.0}, chat_json("a")),
        (lambda c: c.models.list(), "GET", "/v1/models", None, {"object": "list", "data": []}),
        (lambda c: c.models.retrieve("a/b c"), "GET", "/v1/models/a/b%20c", None, {"id": "a/b c"}),
        (lambda c: c.tokenize("x", model="m"), "POST", "/tokenize", {"prompt": "x", "model": "m"},
         {"count": 1, "tokens": [7]}),
        (lambda c: c.tokenize(messages=MESSAGES, return_token_strs=True), "POST", "/tokenize",
         {"messages": MESSAGES, "return_token_strs": True}, {"count": 1, "tokens": [7]}),
        (lambda c: c.detokenize([7, 8]), "POST", "/detokenize", {"tokens": [7, 8]},
         {"prompt": "x"}),
        (lambda c: c.health(), "GET", "/health", None, {"status": "ok"}),
    ],
)  # fmt: skip
async def test_each_call_sends_what_the_contract_says(
    sdk: Sdk, call: Any, method: str, path: str, body: Any, reply: Any
) -> None:
    server = MockServer()
    server.reply(reply)
    await sdk.do(call(sdk.client(server)))
    (seen,) = server.requests
    assert (seen.method, seen.path, seen.json) == (method, path, body)
    assert seen.headers.get("content-type") == (None if body is None else "application/json")
    assert seen.headers["accept"] == "application/json"
    assert seen.closed


@both
@pytest.mark.parametrize(
    "call",
    [
        lambda c, **extra: c.completions.create("x", **extra),
        lambda c, **extra: c.completions.create("x", stream=True, **extra),
        lambda c, **extra: c.chat.create(MESSAGES, **extra),
        lambda c, **extra: c.models.list(**extra),
        lambda c, **extra: c.models.retrieve("m", **extra),
        lambda c, **extra: c.tokenize("x", **extra),
        lambda c, **extra: c.detokenize([1], **extra),
        lambda c, **extra: c.health(**extra),
        lambda c, **extra: c.wait_until_ready(**{"timeout": 1.0, **extra}),
        lambda c, **extra: c.generate_many(["x"], **extra),
        lambda c, **extra: c.with_raw_response.completions.create("x", **extra),
    ],
)
async def test_each_call_takes_extras_and_refuses_unknown_arguments(sdk: Sdk, call: Any) -> None:
    server = MockServer(lambda seen: _whatever(seen.json))
    client = sdk.client(server)
    with pytest.raises(TypeError, match="colour"):
        await sdk.do(call(client, colour="blue"))
    assert server.requests == []
    await sdk.do(call(client, extra_body={"seed_x": 1}, extra_headers={"X-A": "b"}, timeout=4.0))
    seen = server.requests[-1]
    assert seen.json["seed_x"] == 1
    assert seen.headers["x-a"] == "b"
    assert seen.timeout["connect"] == 4.0


@both
async def test_extra_body_is_added_last_and_as_it_is(sdk: Sdk) -> None:
    server = MockServer()
    server.completion("a")
    client = sdk.client(server)
    extra = {"max_tokens": 9, "suffix": None, "dry_multiplier": 0.5}
    await sdk.do(client.completions.create("x", max_tokens=3, extra_body=extra))
    assert server.requests[0].json == {"prompt": "x", **extra}


@both
async def test_tokenize_takes_a_prompt_or_messages(sdk: Sdk) -> None:
    client = sdk.client(MockServer())
    for arguments in ({}, {"prompt": "x", "messages": MESSAGES}):
        with pytest.raises(TypeError):
            await sdk.do(client.tokenize(**arguments))
    with pytest.raises(ValueError):
        await sdk.do(client.models.retrieve(""))


@both
async def test_the_body_is_utf8_and_never_nan(sdk: Sdk) -> None:
    server = MockServer()
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200, json=completion_json("a"))

    http_client = sdk.http_client(transport=httpx.MockTransport(answer))
    client = sdk.client(server, http_client=http_client)
    await sdk.do(client.completions.create("è🐟"))
    assert bodies == ['{"prompt":"è🐟"}'.encode()]
    with pytest.raises(ValueError):
        await sdk.do(client.completions.create("x", temperature=math.nan))


@both
async def test_results_keep_fields_they_do_not_know(sdk: Sdk) -> None:
    server = MockServer()
    body = completion_json("a", future={"deep": [1]})
    body["choices"][0]["also_new"] = 3
    server.reply(body)
    result = await sdk.do(sdk.client(server).completions.create("x"))
    assert result.future == {"deep": [1]}
    assert result.choices[0].also_new == 3
    assert result.model_dump()["future"] == {"deep": [1]}


@both
async def test_results_know_the_answer_they_came_in(sdk: Sdk) -> None:
    server = MockServer()
    headers = {"X-Request-Id": "abc", "X-Queue-Ms": "3", "X-Prefill-Ms": "41.5",
               "X-Decode-Ms": "nonsense"}  # fmt: skip
    server.reply(completion_json("a"), headers=headers)
    result = await sdk.do(sdk.client(server).completions.create("x"))
    assert result.request_id == "abc"
    assert result.headers["x-queue-ms"] == "3"
    assert (result.timings.queue_ms, result.timings.prefill_ms) == (3.0, 41.5)
    assert (result.timings.decode_ms, result.timings.ttft_ms) == (None, None)
    assert result.ignored_params == ()
    assert "abc" not in repr(result)  # the answer around it is no field


@both
async def test_timings_of_the_body_win_over_headers(sdk: Sdk) -> None:
    server = MockServer()
    ext = {"timings": {"queue_ms": 2.25, "ttft_ms": 44}}
    server.reply(completion_json("a", ext=ext), headers={"X-Queue-Ms": "2", "X-Prefill-Ms": "5"})
    timings = (await sdk.do(sdk.client(server).completions.create("x"))).timings
    assert (timings.queue_ms, timings.prefill_ms, timings.ttft_ms) == (2.25, 5.0, 44.0)


@both
async def test_without_the_servers_request_id_ours_stands(sdk: Sdk) -> None:
    server = MockServer()
    server.completion("a")
    result = await sdk.do(sdk.client(server).completions.create("x"))
    assert result.request_id == server.requests[0].headers["x-request-id"]


@both
async def test_ignored_parameters_warn_once_per_name(sdk: Sdk) -> None:
    server = MockServer()
    client = sdk.client(server)
    for names in ("colour, size", "colour", "colour,shape"):
        server.reply(completion_json("a"), headers={"X-Ignored-Params": names})
    server.stream(b"data: [DONE]\n\n", headers={"X-Ignored-Params": "size, depth"})
    copy = client.with_options(timeout=9.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = await sdk.do(client.completions.create("x"))
        await sdk.do(client.completions.create("x"))
        await sdk.do(copy.completions.create("x"))
        stream = await sdk.do(copy.completions.create("x", stream=True))
    assert first.ignored_params == ("colour", "size")
    assert stream.ignored_params == ("size", "depth")
    ours = [entry for entry in caught if entry.category is UserWarning]
    named = [str(entry.message).rpartition(" ")[2] for entry in ours]
    assert named == ["'colour'", "'size'", "'shape'", "'depth'"]
    caller = inspect.getfile(Sdk) if sdk.is_async else __file__  # Sdk.do awaits, a test calls
    assert {entry.filename for entry in ours} == {caller}


@both
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"object":"list"}', b'{"data":[{"no":"id"}]}']
)
async def test_an_answer_of_the_wrong_shape_is_invalid(sdk: Sdk, body: bytes) -> None:
    server = MockServer()
    server.reply(body, headers={"X-Request-Id": "r1"})
    with pytest.raises(ResponseInvalid, match="GET /v1/models") as caught:
        await sdk.do(sdk.client(server).models.list())
    assert caught.value.body == body.decode()
    assert caught.value.request_id == "r1"
    assert len(server.requests) == 1


@both
async def test_health_tells_loading_from_ready_and_from_strangers(sdk: Sdk) -> None:
    server = MockServer()
    client = sdk.client(server)
    server.reply({"status": "ok", "models": {"m": {"state": "ready"}}})
    health = await sdk.do(client.health())
    assert (health.ready, health.status, health.models["m"]["state"]) == (True, "ok", "ready")
    server.reply({"status": "loading"}, status=503)
    health = await sdk.do(client.health())
    assert (health.ready, health.status) == (False, "loading")
    for body in ({"error": {"message": "proxy says no"}}, b"<html>Service Unavailable"):
        server.reply(body, status=503)
        with pytest.raises(Unavailable):
            await sdk.do(client.health())
    assert server.clock.sleeps == []


@both
async def test_models_have_their_facts(sdk: Sdk) -> None:
    server = MockServer()
    model = {"id": "tiny-a", "object": "model", "created": 1, "owned_by": "local", "parent": None,
             "max_model_len": 2048, "ready": True, "capabilities": ["completion", "chat"],
             "defaults": {"temperature": 0.7}}  # fmt: skip
    server.reply({"object": "list", "data": [model]})
    server.error(404, "model_not_found", type="invalid_request_error")
    client = sdk.client(server)
    (found,) = (await sdk.do(client.models.list())).data
    assert (found.id, found.max_model_len, found.ready) == ("tiny-a", 2048, True)
    with pytest.raises(NotFound):
        await sdk.do(client.models.retrieve("tiny-b"))


@both
async def test_a_raw_response_is_the_http_librarys(sdk: Sdk) -> None:
    server = MockServer()
    server.error(503, "server_is_overloaded")
    server.completion("a")
    response = await sdk.do(sdk.client(server).with_raw_response.completions.create("x"))
    assert isinstance(response, httpx.Response)
    assert response.json()["choices"][0]["text"] == "a"
    assert len(server.clock.sleeps) == 1

    server.error(404, "not_found")
    with pytest.raises(NotFound):
        await sdk.do(sdk.client(server).with_raw_response.models.retrieve("m"))
    server.reply({"status": "loading"}, status=503)
    assert (await sdk.do(sdk.client(server).with_raw_response.health())).status_code == 503


@both
async def test_a_raw_stream_is_not_read(sdk: Sdk) -> None:
    server = MockServer()
    server.completion_stream("a")
    raw = sdk.client(server).with_raw_response
    response = await sdk.do(raw.completions.create("x", stream=True))
    assert not response.is_stream_consumed
    pieces = await sdk.all(response.aiter_bytes() if sdk.is_async else response.iter_bytes())
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


def _whatever(body: Any) -> Any:
    """One reply that suits every call; a stream where one is asked for."""
    if body and body.get("stream"):
        return Canned(headers={"content-type": "text/event-stream"}, parts=(DONE,))
    return json_reply(
        {**completion_json("a"), "choices": [], "count": 0, "tokens": [], "prompt": "", "data": []}
    )
