"""POST /v1/responses: shapes, the order of events, errors, statelessness."""

import json
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.http_app import Served, serve
from tests.http.building import refused, serve_script


async def post(served: Served, **fields: Any) -> httpx.Response:
    asked = {"model": "tiny", "input": "Hi", "temperature": 0, **fields}
    return await served.client.post("/v1/responses", json=asked)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The records of a stream; checks their names and numbers."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for number, record in enumerate(response.text.removesuffix("\n\n").split("\n\n")):
        name, data = record.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == number
    return found


async def test_a_response(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        answer = (await post(served, instructions="Be short", metadata={"a": "b"})).json()
    (item,) = answer["output"]
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
    }
    assert answer["id"].startswith("resp_")
    assert answer["status"] == "completed"
    assert answer["store"] is False
    assert answer["metadata"] == {"a": "b"}
    assert answer["instructions"] == "Be short"
    assert answer["usage"]["output_tokens"] == 6
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] + 6


async def test_a_stream_has_the_documented_events_and_ends_with_the_plain_answer(
    tmp_path: Path,
) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        plain = (await post(served)).json()
        found = events(await post(served, stream=True))
    types = [event["type"].removeprefix("response.") for event in found]
    assert types[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(types[4:-4]) == {"output_text.delta"}
    assert types[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert "".join(event["delta"] for event in found[4:-4]) == found[-4]["text"] == "Hello"
    assert found[0]["response"]["status"] == "in_progress"
    assert found[0]["response"]["output"] == []
    streamed = found[-1]["response"]
    assert streamed["output"] == [found[-2]["item"]]
    assert streamed["id"] == found[0]["response"]["id"]
    for answer in (plain, streamed):
        for name in ("id", "created_at", "completed_at"):
            del answer[name]
        del answer["output"][0]["id"]
        answer["usage"]["input_tokens_details"] = None  # the second one found its prefix cached
    assert streamed == plain


async def test_a_cut_answer_is_incomplete(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        answer = (await post(served, max_output_tokens=2)).json()
        last = events(await post(served, max_output_tokens=2, stream=True))[-1]
    assert last["type"] == "response.incomplete"
    for response in (answer, last["response"]):
        assert response["status"] == response["output"][0]["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_logprobs_are_those_of_the_chat(tmp_path: Path) -> None:
    include = ["message.output_text.logprobs"]
    async with serve_script(tmp_path, "Hello") as (served, _):
        answer = (await post(served, include=include, top_logprobs=2)).json()
        found = events(await post(served, include=include, top_logprobs=2, stream=True))
        chat = await served.chat(logprobs=True, top_logprobs=2, temperature=0)
    shown = answer["output"][0]["content"][0]["logprobs"]
    expected = chat.json()["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in shown] == [entry["logprob"] for entry in expected]
    assert len(shown[0]["top_logprobs"]) == 2
    deltas = [e for e in found if e["type"] == "response.output_text.delta"]
    assert [entry for e in deltas for entry in e["logprobs"]] == shown[: len("Hello")]
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == shown


async def test_items_make_the_same_prompt_as_our_chat(tmp_path: Path) -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "Yes", "annotations": []}]},
        {"role": "user", "content": "More"},
    ]  # fmt: skip
    chat = [
        {"role": "system", "content": "Be short"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "More"},
    ]
    async with serve(tmp_path) as served:
        asked = {"model": "tiny", "instructions": "Be short", "input": items}
        counted = await served.client.post("/v1/responses/input_tokens", json=asked)
        known = await served.client.post("/tokenize", json={"messages": chat})
    assert counted.headers["x-ignored-params"] == "input.reasoning"
    assert counted.json() == {
        "object": "response.input_tokens",
        "input_tokens": known.json()["count"],
    }


async def test_our_options_are_taken_and_unknown_fields_named(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        asked = {"temperature": 1, "seed": 7, "top_k": 50, "include": ["seed"]}
        first, again = await post(served, **asked, foo=1), await post(served, **asked)
    assert first.headers["x-ignored-params"] == "foo"
    texts = [each.json()["output"][0]["content"][0]["text"] for each in (first, again)]
    assert texts[0] == texts[1]
    assert first.json()["ext"] == {"seed": [7]}


ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "missing_required_parameter", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"store": True}, "unsupported_parameter", "store"),
    ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
    ({"conversation": "c"}, "unsupported_parameter", "conversation"),
    ({"background": True}, "unsupported_parameter", "background"),
    ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
    ({"n": 2}, "unsupported_parameter", "n"),
    ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools.0.type"),
    ({"include": ["file"]}, "invalid_value", "include"),
    ({"include": ["trace"]}, "unsupported_parameter", "include"),
    ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    ({"max_output_tokens": 9999}, "context_length_exceeded", "input"),
    ({"top_logprobs": 99}, "invalid_value", "top_logprobs"),
    ({"text": {"format": {"type": "x"}}}, "invalid_value", "text.format"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
     "unsupported_parameter", "input.0.content"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_parameter", "input.0"),
    ({"input": [{"role": "robot", "content": "x"}]}, "invalid_value", "input.0"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": 1, "call_id": "c"}]},
     "invalid_value", "input.0.arguments"),
]  # fmt: skip


async def test_an_error_names_the_field_of_the_request(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        for fields, code, param in ERRORS:
            refused(await post(served, **fields), 400, code, param)


async def test_neutral_values_pass(tmp_path: Path) -> None:
    neutral = {
        "store": False, "background": False, "truncation": "disabled", "service_tier": "auto",
        "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "metadata": {},
        "include": ["reasoning.encrypted_content"], "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None}, "previous_response_id": None, "user": "me",
    }  # fmt: skip
    async with serve_script(tmp_path, "Hello") as (served, _):
        response = await post(served, **neutral)
    assert response.status_code == 200, response.text
    assert "x-ignored-params" not in response.headers


async def test_no_response_is_kept(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        client = served.client
        for answer in (
            await client.get("/v1/responses/resp_1"),
            await client.delete("/v1/responses/resp_1"),
            await client.post("/v1/responses/resp_1/cancel"),
            await client.get("/v1/responses/resp_1/input_items"),
        ):
            refused(answer, 404, "not_found", "response_id")


async def test_a_failure_within_a_stream_ends_it_as_failed(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, runner):
        run = runner.run

        def failing(plan: Any) -> Any:
            if runner.num_steps >= 3:
                runner.error = "numerical_error"
            return run(plan)

        runner.run = failing  # type: ignore[method-assign]
        last = events(await post(served, stream=True))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
