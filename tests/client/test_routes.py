"""The calls besides generation: what they send and what comes back."""

import math
from typing import Any

import pytest

from shoal.client import Conflict, NotFound
from shoal.client.testing import DONE, MockServer, answer_anything, completion_event
from tests.client.both import MESSAGES, Sdk, both

CALLS: list[tuple[Any, str, str, Any]] = [
    (lambda c: c.score_choices("x", ["a", "b"], normalize="tokens"), "POST", "/v1/score_choices",
     {"prompt": "x", "choices": ["a", "b"], "normalize": "tokens"}),
    (lambda c: c.perplexity("x y", model="m", stride=8), "POST", "/v1/perplexity",
     {"model": "m", "input": "x y", "stride": 8}),
    (lambda c: c.embeddings.create(["x", "y"]), "POST", "/v1/embeddings",
     {"input": ["x", "y"], "encoding_format": "base64"}),
    (lambda c: c.cancel("req/1"), "POST", "/v1/requests/req%2F1/cancel", {}),
    (lambda c: c.usage(), "GET", "/v1/usage", None),
    (lambda c: c.version(), "GET", "/version", None),
    (lambda c: c.load(), "GET", "/load", None),
    (lambda c: c.metrics(), "GET", "/metrics", None),
    (lambda c: c.admin.lora.load("a", "/p", model="m"), "POST", "/admin/lora/load",
     {"name": "a", "path": "/p", "model": "m"}),
    (lambda c: c.admin.lora.unload("a"), "POST", "/admin/lora/unload", {"name": "a"}),
    (lambda c: c.admin.models.load("a", "/p"), "POST", "/admin/models/load",
     {"name": "a", "path": "/p"}),
    (lambda c: c.admin.models.unload("a", drain=True), "POST", "/admin/models/unload",
     {"name": "a", "drain": True}),
    (lambda c: c.admin.cache.reset(), "POST", "/admin/cache/reset", {}),
    (lambda c: c.admin.drain(), "POST", "/admin/drain", {"drain": True}),
    (lambda c: c.admin.drain(False), "POST", "/admin/drain", {"drain": False}),
]  # fmt: skip


@both
@pytest.mark.parametrize(("call", "method", "path", "body"), CALLS)
async def test_each_call_sends_what_the_contract_says(
    sdk: Sdk, call: Any, method: str, path: str, body: Any
) -> None:
    server = MockServer(answer_anything)
    await sdk.do(call(sdk.client(server)))
    raw = await sdk.do(call(sdk.client(server).with_raw_response))
    assert raw.status_code == 200
    for seen in server.requests:
        assert (seen.method, seen.path, seen.json) == (method, path, body)


@both
async def test_scores_name_the_best_choice(sdk: Sdk) -> None:
    server = MockServer()
    server.scores(-3.0, -0.5, -2.0)
    scores = await sdk.do(sdk.client(server).score_choices("x", ["a", "b", "c"]))
    assert scores.best == 1
    assert [choice.rank for choice in scores.choices] == [3, 1, 2]
    assert [choice.is_greedy for choice in scores.choices] == [False, True, False]


@both
async def test_embeddings_are_numbers_however_they_travel(sdk: Sdk) -> None:
    server = MockServer()
    server.embeddings([0.5, -1.25], [3.0, 0.0])
    server.reply({"data": [{"index": 0, "embedding": [0.5, 1]}]})
    client = sdk.client(server)
    found = await sdk.do(client.embeddings.create(["x", "y"]))
    assert [row.embedding for row in found.data] == [[0.5, -1.25], [3.0, 0.0]]
    plain = await sdk.do(client.embeddings.create("x", encoding_format="float", dimensions=2))
    assert plain.data[0].embedding == [0.5, 1.0]
    assert server.requests[1].json == {"input": "x", "encoding_format": "float", "dimensions": 2}


@both
async def test_numbers_of_a_text_and_of_the_server(sdk: Sdk) -> None:
    server = MockServer()
    server.perplexity(8.0, tokens=10, num_bytes=30)
    server.cancelled(17)
    server.usage({"model": "m", "requests": 3, "prompt_tokens": 9})
    server.metrics('shoal_requests_total{model="é"} 3\n')
    client = sdk.client(server)
    found = await sdk.do(client.perplexity("x"))
    assert math.isclose(found.nll, 10 * math.log(8.0))
    assert math.isclose(found.bits_per_byte, 1.0)
    assert (await sdk.do(client.cancel("req-1"))).tokens_generated == 17
    (row,) = (await sdk.do(client.usage())).data
    assert (row.model, row.requests, row.prompt_tokens) == ("m", 3, 9)
    assert (await sdk.do(client.metrics())).text == 'shoal_requests_total{model="é"} 3\n'


@both
async def test_an_administrators_call_is_sent_once(sdk: Sdk) -> None:
    server = MockServer()
    server.error(409, "already_loaded", type="conflict_error")
    client = sdk.client(server, max_retries=5)
    with pytest.raises(Conflict):
        await sdk.do(client.admin.models.load("a", "/p"))
    assert len(server.requests) == 1


@both
async def test_names_that_are_empty_are_refused_before_sending(sdk: Sdk) -> None:
    server = MockServer()
    with pytest.raises(ValueError, match="request_id"):
        await sdk.do(sdk.client(server).cancel(""))
    server.error(404, "not_found", type="invalid_request_error")
    with pytest.raises(NotFound):
        await sdk.do(sdk.client(server).cancel("req-over"))


@both
async def test_the_list_of_models_is_a_list(sdk: Sdk) -> None:
    server = MockServer()
    server.models("a", "b", max_model_len=512)
    models = await sdk.do(sdk.client(server).models.list())
    assert [model.id for model in models] == ["a", "b"]
    assert (len(models), models[1].id, models.data[0].max_model_len) == (2, "b", 512)


@both
async def test_messages_of_results_continue_a_conversation(sdk: Sdk) -> None:
    server = MockServer()
    server.chat_stream("Hel", "lo")
    server.tool_calls(add={"a": 1})
    server.chat("done")
    client = sdk.client(server)
    streamed = await sdk.do((await sdk.do(client.chat.create(MESSAGES, stream=True))).final())
    called = await sdk.do(client.chat.create([*MESSAGES, streamed.message]))
    await sdk.do(client.chat.create((*MESSAGES, streamed.choices[0].message, called.message)))
    hello, call = server.requests[2].json["messages"][1:]
    assert server.requests[1].json["messages"] == [*MESSAGES, hello]
    assert hello == {"role": "assistant", "content": "Hello"}
    function = {"name": "add", "arguments": '{"a":1}'}
    assert call == {
        "role": "assistant",
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }
    with pytest.raises(TypeError, match="object cannot be sent"):
        await sdk.do(client.chat.create([object()]))


@both
async def test_chat_completions_is_another_name_for_chat(sdk: Sdk) -> None:
    server = MockServer()
    server.chat("a")
    server.chat("b")
    client = sdk.client(server)
    assert (await sdk.do(client.chat.completions.create(messages=MESSAGES))).text == "a"
    raw = await sdk.do(client.with_raw_response.chat.completions.create(MESSAGES))
    assert raw.json()["choices"][0]["message"]["content"] == "b"
    assert [seen.path for seen in server.requests] == ["/v1/chat/completions"] * 2


@both
async def test_to_dict_is_what_the_server_sent(sdk: Sdk) -> None:
    server = MockServer()
    body = {"id": "c", "choices": [{"index": 0, "text": "x", "future": 1}], "ext": {"seed": [1]}}
    server.reply(body)
    result = await sdk.do(sdk.client(server).completions.create("x"))
    assert result.to_dict() == body
    assert (result.finish_reason, result.ext.seed) == (None, [1])


@both
async def test_what_include_asks_for_is_typed(sdk: Sdk) -> None:
    cost = {"cpu_seconds": 0.9, "joules_est": 12.1, "amount_est": 3.1e-6, "currency": "USD"}
    ext = {"usage_cost": cost, "queue": {"position_at_arrival": 2}, "trace": [{"rank": 1}],
           "token_ids": [[7]], "truncated": [0]}  # fmt: skip
    server = MockServer()
    server.completion("x", ext=ext)
    result = await sdk.do(sdk.client(server).completions.create("x", include=["usage_cost"]))
    assert result.ext.usage_cost.cpu_seconds == 0.9
    assert result.ext.queue.position_at_arrival == 2
    assert result.ext.to_dict() == ext


@both
async def test_the_trace_of_a_stream_is_that_of_the_whole(sdk: Sdk) -> None:
    server = MockServer()
    chunks = [
        completion_event(text, index=index, trace=[{"token": text, "rank": 1}])
        for index, text in ((0, "a"), (1, "b"), (0, "c"))
    ]
    ends = [completion_event("", index=index, finish_reason="stop") for index in (0, 1)]
    last = {**ends[0], "choices": [], "usage": {"total_tokens": 3}, "ext": {"seed": [1, 2]}}
    server.stream(*chunks, *ends, last, DONE)
    fields = {"n": 2, "include": ["trace", "seed"], "stream": True}
    stream = await sdk.do(sdk.client(server).completions.create("x", **fields))
    whole = await sdk.do(stream.final())
    assert whole.ext.to_dict() == {
        "seed": [1, 2],
        "trace": [
            {"index": index, "token": token, "rank": 1}
            for index, token in ((0, "a"), (0, "c"), (1, "b"))
        ],
    }
    assert "trace" not in whole.choices[0].to_dict()
