"""Tools, reasoning and schemas in the APIs that are not OpenAI's chat: the same parts of a message,
each in its own shape, streamed and whole; histories that make the same prompt."""

import json
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.protocol.params import SamplingParams
from tests.fakes import tool_templates as templates
from tests.fakes.http_app import Served
from tests.http.building import Script, serve_script
from tests.http.test_anthropic import events as anthropic_events
from tests.http.test_chat import with_template
from tests.http.test_ollama import lines
from tests.http.test_responses import events as response_events

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Weather of a city."}
OPENAI_TOOL = {"type": "function", "function": {**FUNCTION, "parameters": SCHEMA}}
HI = [{"role": "user", "content": "Weather?"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {
        "model": "tiny", "input": "Weather?", "temperature": 0,
        "tools": [{"type": "function", **FUNCTION, "parameters": SCHEMA}],
    },
    "/v1/messages": {
        "model": "tiny", "messages": HI, "max_tokens": 300, "temperature": 0,
        "tools": [{**FUNCTION, "input_schema": SCHEMA}],
    },
    "/api/chat": {
        "model": "tiny", "messages": HI, "stream": False, "options": {"temperature": 0},
        "tools": [OPENAI_TOOL],
    },
}  # fmt: skip
SAYS = (
    '<think>\nHm.\n</think>\n\nLet me look.\n<tool_call>\n{"name": "get_weather", '
    '"arguments": {"city": "Zürich"}}\n</tool_call>\n<tool_call>\n{"name": "get_weather", '
    '"arguments": {"city": "Rome"}}\n</tool_call>'
)
ARGUMENTS = [{"city": "Zürich"}, {"city": "Rome"}]


@asynccontextmanager
async def serve_grammars(folder: Path, script: str | Script) -> AsyncIterator[tuple[Served, Any]]:
    """A model that follows a script, whatever the grammar."""
    ready: Future[str | None] = Future()
    ready.set_result(None)
    async with serve_script(folder, script) as (served, runner):
        runner.prepare_grammar = lambda sampling: ready  # type: ignore[attr-defined]
        yield served, runner


async def post(served: Served, path: str, **fields: Any) -> httpx.Response:
    response = await served.client.post(path, json={**ASKED[path], **fields})
    assert response.status_code == 200, response.text
    return response


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in items]


async def test_a_message_has_reasoning_text_and_calls(tmp_path: Path) -> None:
    async with serve_grammars(tmp_path, SAYS) as (served, _):
        with_template(served, templates.QWEN3)
        message = (await post(served, "/v1/messages")).json()
        assert message["stop_reason"] == "tool_use"
        thinking, text, *calls = message["content"]
        assert thinking == {"type": "thinking", "thinking": "Hm.", "signature": ""}
        assert text == {"type": "text", "text": "Let me look."}
        assert [call["input"] for call in calls] == ARGUMENTS
        assert {(call["type"], call["name"]) for call in calls} == {("tool_use", "get_weather")}
        assert len({call["id"] for call in calls}) == 2

        reasoning, text, *calls = (response := await post(served, "/v1/responses")).json()["output"]
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
        assert text["content"][0]["text"] == "Let me look."
        assert [json.loads(call["arguments"]) for call in calls] == ARGUMENTS
        assert {(call["type"], call["name"]) for call in calls} == {
            ("function_call", "get_weather")
        }
        usage = response.json()["usage"]
        assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]

        answer = (await post(served, "/api/chat")).json()
        assert answer["done_reason"] == "stop"
        calls = answer["message"].pop("tool_calls")
        assert [call["function"]["arguments"] for call in calls] == ARGUMENTS
        assert answer["message"] == {
            "role": "assistant", "content": "Let me look.", "thinking": "Hm.",
        }  # fmt: skip


async def test_streams_join_to_the_whole_messages(tmp_path: Path) -> None:
    async with serve_grammars(tmp_path, SAYS) as (served, _):
        with_template(served, templates.QWEN3)
        whole = (await post(served, "/v1/messages")).json()["content"]
        found = anthropic_events(await post(served, "/v1/messages", stream=True))
        assert without_ids(joined_blocks(found)) == without_ids(whole)

        whole = (await post(served, "/v1/responses")).json()["output"]
        found = response_events(await post(served, "/v1/responses", stream=True))
        assert without_ids(found[-1]["response"]["output"]) == without_ids(whole)
        done = [e["item"] for e in found if e["type"] == "response.output_item.done"]
        assert done == found[-1]["response"]["output"]
        for item in done[2:]:
            pieces = [
                event["delta"]
                for event in found
                if event["type"] == "response.function_call_arguments.delta"
                and event["item_id"] == item["id"]
            ]
            assert len(pieces) > 1
            assert "".join(pieces) == item["arguments"]

        message = (await post(served, "/api/chat")).json()["message"]
        parts = [line["message"] for line in lines(await post(served, "/api/chat", stream=True))]
        assert "".join(part["content"] for part in parts) == message["content"]
        assert "".join(part.get("thinking", "") for part in parts) == message["thinking"]
        calls = [call for part in parts for call in part.get("tool_calls", ())]
        assert without_ids(calls) == without_ids(message["tool_calls"])


def joined_blocks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content that a client of Anthropic's makes of its stream; one block is open at a time."""
    blocks: list[dict[str, Any]] = []
    arguments = ""
    for event in found:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append({**block})
                arguments = ""
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == len(blocks) - 1
                if delta["type"] == "input_json_delta":
                    arguments += delta["partial_json"]
                else:
                    field = "text" if delta["type"] == "text_delta" else "thinking"
                    blocks[-1][field] += delta[field]
            case {"type": "content_block_stop"} if arguments:
                blocks[-1]["input"] = json.loads(arguments)
    return blocks


CALL = {"name": "get_weather", "arguments": '{"city":"Rome"}'}
CHAT = [
    {"role": "system", "content": "Be short."},
    *HI,
    {"role": "assistant", "content": "Wait.", "reasoning_content": "Hm.",
     "tool_calls": [{"id": "c1", "type": "function", "function": CALL},
                    {"id": "c2", "type": "function", "function": CALL}]},
    {"role": "tool", "tool_call_id": "c1", "content": "Sun"},
    {"role": "tool", "tool_call_id": "c2", "content": "Rain"},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
USES = [{"type": "tool_use", "id": c, "name": "get_weather", "input": {"city": "Rome"}}
        for c in ("c1", "c2")]  # fmt: skip
ANTHROPIC = [
    *HI,
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Wait."}, *USES]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c1", "content": "Sun"},
        {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "Rain"}]},
        {"type": "text", "text": "And now?"}]},
]  # fmt: skip
ITEMS = [
    *HI,
    {"type": "reasoning", "id": "r", "summary": [],
     "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
    {"type": "function_call", "call_id": "c1", **CALL},
    {"type": "function_call", "call_id": "c2", **CALL},
    {"type": "function_call_output", "call_id": "c1", "output": "Sun"},
    {"type": "function_call_output", "call_id": "c2",
     "output": [{"type": "input_text", "text": "Rain"}]},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
OLLAMA_CALL = {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
OLLAMA = [
    CHAT[0],
    *HI,
    {"role": "assistant", "content": "Wait.", "thinking": "Hm.",
     "tool_calls": [OLLAMA_CALL, OLLAMA_CALL]},
    {"role": "tool", "content": "Sun", "tool_name": "get_weather"},
    {"role": "tool", "content": "Rain"},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
READS_ALL = templates.HERMES.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}")


async def test_histories_make_the_same_prompt(tmp_path: Path) -> None:
    prompts: list[list[int]] = []

    def script(prompt: list[int], sampling: SamplingParams) -> list[int]:
        prompts.append(prompt)
        return []

    async with serve_grammars(tmp_path, script) as (served, _):
        with_template(served, READS_ALL)
        body = {"messages": CHAT, "tools": [OPENAI_TOOL]}
        assert (await served.client.post("/v1/chat/completions", json=body)).status_code == 200
        await post(served, "/v1/messages", messages=ANTHROPIC, system="Be short.")
        await post(served, "/v1/responses", input=ITEMS, instructions="Be short.")
        await post(served, "/api/chat", messages=OLLAMA)
    assert len({tuple(prompt) for prompt in prompts}) == 1
    text = bytes(token_id for token_id in prompts[0] if token_id < 256).decode()
    assert text.index("Hm.Wait.") < text.index("Sun") < text.index("Rain") < text.index("And now?")


@pytest.mark.parametrize(
    ("path", "none", "named"),
    [
        ("/v1/responses", "none", {"type": "function", "name": "get_weather"}),
        ("/v1/messages", {"type": "none"}, {"type": "tool", "name": "get_weather"}),
    ],
)
async def test_the_choice_of_a_tool_is_obeyed(
    tmp_path: Path, path: str, none: Any, named: Any
) -> None:
    grammars: list[str | None] = []

    def script(prompt: list[int], sampling: SamplingParams) -> list[int]:
        grammars.append(sampling.grammar)
        return list(SAYS.encode())

    async with serve_grammars(tmp_path, script) as (served, _):
        with_template(served, templates.HERMES)
        answer = (await post(served, path, tool_choice=none)).json()
        assert "tool_use" not in json.dumps(answer)
        assert "function_call" not in json.dumps(answer.get("output"))
        await post(served, path, tool_choice=named)
    assert grammars[0] is None
    assert "get_weather" in (grammars[-1] or "")


SCHEMAS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "/api/chat": {"format": SCHEMA},
    "/api/generate": {"format": SCHEMA},
    "/generate": {"parameters": {"grammar": {"type": "json", "value": SCHEMA}}},
}
BODIES: dict[str, dict[str, Any]] = {
    **{path: {**body, "tools": []} for path, body in ASKED.items()},
    "/api/generate": {"model": "tiny", "prompt": "Hi", "stream": False},
    "/generate": {"inputs": "Hi"},
}


async def test_a_schema_becomes_the_grammar_of_the_answer(tmp_path: Path) -> None:
    grammars: list[str | None] = []

    def script(prompt: list[int], sampling: SamplingParams) -> list[int]:
        grammars.append(sampling.grammar)
        return []

    async with serve_grammars(tmp_path, script) as (served, _):
        for path, fields in SCHEMAS.items():
            response = await served.client.post(path, json={**BODIES[path], **fields})
            assert response.status_code == 200, response.text
    assert len(set(grammars)) == 1
    assert "city" in (grammars[0] or "")


async def test_a_wrong_tool_or_schema_is_named_as_the_caller_knows_it(tmp_path: Path) -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "nonsense"}}}
    async with serve_grammars(tmp_path, "a") as (served, _):
        client = served.client
        tools = [{"type": "function", "name": "no spaces"}]
        answer = await client.post("/v1/responses", json={"input": "Hi", "tools": tools})
        assert answer.json()["error"]["param"] == "tools.0.name"
        assert answer.json()["error"]["message"].startswith("tools.0.name must")
        text = {"format": {"type": "json_schema", "name": "x", "schema": wrong}}
        answer = await client.post("/v1/responses", json={"input": "Hi", "text": text})
        assert answer.json()["error"]["param"].startswith("text.format.schema")
        assert answer.json()["error"]["code"] == "invalid_schema"
        body = {
            **ASKED["/v1/messages"],
            "tools": [{"name": "a", "input_schema": {"type": "array"}}],
        }
        answer = await client.post("/v1/messages", json=body)
        assert answer.json()["error"]["message"].startswith("tools.0.input_schema must")
