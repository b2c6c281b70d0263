"""POST /v1/messages: shapes, streams, errors, token counts."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.http_app import Served, serve
from tests.http.building import serve_script

ASKED: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 40,
    "messages": [{"role": "user", "content": "Hi"}],
}


async def post(served: Served, **fields: Any) -> httpx.Response:
    return await served.client.post("/v1/messages", json={**ASKED, **fields})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The records of a stream; each event's name is its record's type."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for record in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = record.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def test_a_message(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        response = await post(served)
        assert response.headers["request-id"] == response.headers["x-request-id"]
        answer = response.json()
    assert answer.pop("id").startswith("msg_")
    usage = answer.pop("usage")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["output_tokens"] == 6
    assert usage["input_tokens"] > 2


async def test_a_stream_names_its_events_and_joins_to_the_plain_text(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        found = events(await post(served, stream=True))
    types = [event["type"] for event in found]
    assert types[:2] == ["message_start", "content_block_start"]
    assert set(types[2:-3]) == {"content_block_delta"}
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in found[2:-3]) == "Hello"
    assert found[0]["message"]["content"] == []
    assert found[0]["message"]["usage"]["output_tokens"] <= 1
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 6


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({"stop_sequences": ["ll"]}, "stop_sequence", "ll"),
        ({"max_tokens": 2}, "max_tokens", None),
        ({"max_tokens": 100_000}, "end_turn", None),
    ],
)
async def test_the_stop_reason_says_why(
    tmp_path: Path, fields: dict[str, Any], reason: str, sequence: str | None
) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        answer = (await post(served, **fields)).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)


async def test_more_tokens_than_the_context_holds_end_when_it_is_full(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x" * 500, max_model_len=64) as (served, _):
        answer = (await post(served, max_tokens=4096)).json()
    assert answer["stop_reason"] == "model_context_window_exceeded"
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["output_tokens"] == 64


async def test_cached_tokens_are_counted_apart(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        cold = (await post(served)).json()["usage"]
        warm = (await post(served)).json()["usage"]
    assert warm["cache_read_input_tokens"] > 0
    assert warm["input_tokens"] + warm["cache_read_input_tokens"] == cold["input_tokens"]


async def test_system_and_blocks_make_the_same_prompt_as_our_chat(tmp_path: Path) -> None:
    blocks = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    messages = [
        {"role": "user", "content": blocks},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "?"},
                                          {"type": "text", "text": "Yes"}]},
        {"role": "user", "content": "More"},
        {"role": "user", "content": "please"},
    ]  # fmt: skip
    chat = [
        {"role": "system", "content": "Be short"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "More\nplease"},
    ]
    async with serve_script(tmp_path, "Hello") as (served, _):
        for system in ("Be short", [{"type": "text", "text": "Be short"}]):
            asked = {"model": "tiny", "messages": messages, "system": system}
            counted = await served.client.post("/v1/messages/count_tokens", json=asked)
            assert counted.headers["x-ignored-params"] == "messages.content.redacted_thinking"
            known = await served.client.post("/tokenize", json={"messages": chat})
            assert counted.json() == {"input_tokens": known.json()["count"]}


async def test_an_assistant_message_at_the_end_is_continued(tmp_path: Path) -> None:
    messages = [*ASKED["messages"], {"role": "assistant", "content": "My answer:"}]
    prompts: list[bytes] = []

    def script(prompt: list[int], sampling: Any) -> list[int]:
        prompts.append(bytes(token_id for token_id in prompt if token_id < 256))
        return list(b" yes")

    async with serve_script(tmp_path, script) as (served, _):
        answer = (await post(served, messages=messages)).json()
    assert answer["content"][0]["text"] == " yes"
    assert prompts[0].endswith(b"My answer:")


async def test_our_sampling_options_are_taken_and_unknown_fields_named(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        first = await post(served, seed=7, min_p=0.1, temperature=1, foo=1, cache_control={})
        again = await post(served, seed=7, min_p=0.1, temperature=1)
        assert first.json()["content"] == again.json()["content"]
        assert first.headers["x-ignored-params"] == "foo"
        strict = await post(served, foo=1, strict=True)
        assert strict.json()["error"]["message"] == "unknown parameter: foo"


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens is required"),
    ({"max_tokens": 0}, "max_tokens must be at least 1; got 0"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking can only be disabled"),
    ({"n": 2}, "n is not supported by this server"),
    ({"container": "x"}, "container is not supported by this server"),
    ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "only custom ones"),
    ({"tool_choice": {"type": "tool"}}, "must have a name"),
    ({"messages": [{"role": "system", "content": "x"}]}, "goes into system"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
     "blocks of type 'image' are not supported"),
    ({"messages": [{"role": "user", "content": 5}]}, "content must be a string or an array"),
    ({"messages": []}, "messages must hold at least 1 entry"),
    ({"system": [{"type": "image"}]}, "system may hold parts of type text only"),
    ({"stop_sequences": [""]}, "1 to 1000 characters"),
]  # fmt: skip


async def test_an_error_has_anthropics_shape(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        for fields, message in ERRORS:
            response = await post(served, **fields)
            body = response.json()
            assert response.status_code == 400, message
            assert message in body["error"].pop("message")
            assert body == {
                "type": "error",
                "error": {"type": "invalid_request_error"},
                "request_id": response.headers["request-id"],
            }


async def test_errors_before_a_route_have_its_shape_too(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=["secret"]) as served:
        for answer, status, kind in (
            (await post(served), 401, "authentication_error"),
            (await served.client.get("/v1/messages/batches"), 401, "authentication_error"),
        ):
            assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        served.client.headers["x-api-key"] = "secret"
        client = served.client
        for answer, status, kind in (
            (await post(served), 200, None),
            (await post(served, model="other"), 404, "not_found_error"),
            (await client.get("/v1/messages/batches"), 404, "not_found_error"),
            (await client.get("/v1/messages"), 405, "invalid_request_error"),
            (await client.post("/v1/messages", content=b"{}"), 415, "invalid_request_error"),
        ):
            assert answer.status_code == status
            assert answer.json().get("error", {}).get("type") == kind


async def test_a_failure_within_a_stream_is_an_error_event(tmp_path: Path) -> None:
    def script(prompt: list[int], sampling: Any) -> list[int]:
        return list(b"Hello")

    async with serve_script(tmp_path, script) as (served, runner):
        run = runner.run

        def failing(plan: Any) -> Any:
            if runner.num_steps >= 3:
                runner.error = "numerical_error"
            return run(plan)

        runner.run = failing  # type: ignore[method-assign]
        found = events(await post(served, stream=True))
    assert found[0]["type"] == "message_start"
    assert found[-1]["type"] == "error"
    assert found[-1]["error"]["type"] == "api_error"
