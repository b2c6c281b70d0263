"""Tools over HTTP: calls in answers, streamed and whole, what is refused, prompts, reasoning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken

from shoal.protocol.params import SamplingParams
from tests.fakes import tool_templates as templates
from tests.fakes.http_app import Served
from tests.fakes.text_folder import byte_tokenizer
from tests.http.building import error_of, nothing_left, records, refused, serve_script
from tests.http.test_chat import with_template
from tests.unit.text.building import wrap

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
SAYS = (
    'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'
    "</tool_call>"
)
USER = {"role": "user", "content": "Weather?"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "20 degrees"}


async def chat(served: Served, messages: list[Any] | None = None, **fields: Any) -> httpx.Response:
    body = {"messages": messages or [USER], "tools": [WEATHER], **fields}
    return await served.client.post("/v1/chat/completions", json=body)


def message_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


async def test_calls_of_an_answer_have_the_documented_shape(tmp_path: Path) -> None:
    async with serve_script(tmp_path, SAYS) as (served, _):
        choice = message_of(await chat(served))
        calls = choice["message"].pop("tool_calls")
        assert choice["message"] == {
            "role": "assistant", "content": "Let me look.", "refusal": None,
        }  # fmt: skip
        assert choice["finish_reason"] == "tool_calls"
        assert len({call.pop("id") for call in calls}) == 2
        assert calls == [
            {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
            for arguments in ('{"city": "Zürich"}', '{"city": "Rome"}')
        ]
        nothing_left(served)


async def test_a_message_of_calls_alone_has_no_content(tmp_path: Path) -> None:
    async with serve_script(tmp_path, SAYS.removeprefix("Let me look.\n")) as (served, _):
        message = message_of(await chat(served))["message"]
        assert message["content"] is None
        assert message["tool_calls"][0]["id"].startswith("call_")


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"logprobs": True}, {"return_token_ids": True}])
async def test_streamed_calls_are_those_of_the_whole_answer(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with serve_script(tmp_path, SAYS) as (served, _):
        whole = await chat(served, **fields)
        events = records(await chat(served, stream=True, **fields))
        for expected in whole.json()["choices"]:
            choices = [c for e in events for c in e["choices"] if c["index"] == expected["index"]]
            deltas = [choice["delta"] for choice in choices]
            calls: dict[int, dict[str, Any]] = {}
            for piece in (piece for delta in deltas for piece in delta.get("tool_calls", [])):
                if piece["index"] not in calls:
                    assert set(piece) == {"index", "id", "type", "function"}
                    assert piece["function"].pop("arguments") == ""
                    calls[piece["index"]] = {**piece, "arguments": ""}
                else:
                    assert set(piece) == {"index", "function"}
                    assert set(piece["function"]) == {"arguments"}
                    calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
            assert [(call["function"]["name"], call["arguments"]) for call in calls.values()] == [
                (call["function"]["name"], call["function"]["arguments"])
                for call in expected["message"]["tool_calls"]
            ]
            content = "".join(delta.get("content") or "" for delta in deltas)
            assert content == expected["message"]["content"]
            assert choices[-1]["finish_reason"] == expected["finish_reason"] == "tool_calls"
            shown = [t for c in choices for t in (c["logprobs"] or {}).get("content", [])]
            assert shown == (expected["logprobs"] or {}).get("content", [])
            ids = [token_id for choice in choices for token_id in choice.get("token_ids", [])]
            assert ids == expected.get("token_ids", [])


async def test_text_without_a_call_is_content(tmp_path: Path) -> None:
    for text in ("Just text.", "<tool_call>oops", '<tool_call>{"name": "other"}</tool_call>'):
        async with serve_script(tmp_path, text) as (served, _):
            choice = message_of(await chat(served))
            assert choice["message"]["content"] == text
            assert "tool_calls" not in choice["message"]
            assert choice["finish_reason"] == "stop"


async def test_without_tools_or_with_none_nothing_is_a_call(tmp_path: Path) -> None:
    async with serve_script(tmp_path, SAYS) as (served, _):
        for fields in (
            {"tool_choice": "none"}, {"tools": []}, {"tools": [], "tool_choice": "auto"},
            {"tools": None, "tool_choice": "none", "parallel_tool_calls": False},
        ):  # fmt: skip
            choice = message_of(await chat(served, **fields))
            assert choice["message"]["content"] == SAYS
            assert choice["finish_reason"] == "stop"


async def test_a_call_that_is_cut_keeps_its_part_and_the_reason(tmp_path: Path) -> None:
    async with serve_script(tmp_path, SAYS.removeprefix("Let me look.\n")) as (served, _):
        choice = message_of(await chat(served, max_tokens=53))
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["arguments"] == '{"ci'
        assert choice["finish_reason"] == "length"


async def test_special_tokens_that_mark_calls_are_read_and_not_shown(tmp_path: Path) -> None:
    library = byte_tokenizer()
    library.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True)])
    call = b'[{"name": "get_weather", "arguments": {"city": "\xc3\xa9"}}]'
    says = [*"Hé ".encode(), 257, 261, *call]
    async with serve_script(tmp_path, lambda prompt, sampling: says) as (served, _):
        model = served.services.models["tiny"]
        served.services.models["tiny"] = replace(model, tokenizer=wrap(library))
        with_template(served, templates.MISTRAL)
        message = message_of(await chat(served))["message"]
        assert message["content"] == "Hé"
        assert message["tool_calls"][0]["function"]["arguments"] == '{"city": "é"}'
        plain = message_of(await chat(served, tools=[]))["message"]
        assert plain["content"] == "Hé " + call.decode()
        stopped = message_of(await chat(served, stop="[TOOL_CALLS]"))
        assert (stopped["message"]["content"], stopped["stop_reason"]) == ("Hé ", "[TOOL_CALLS]")


# --- prompts -------------------------------------------------------------------------------------


async def prompt_of(served: Served, messages: list[Any], **fields: Any) -> str:
    response = await served.client.post("/tokenize", json={"messages": messages, **fields})
    assert response.status_code == 200, response.text
    prompt: str = response.json()["prompt"]
    return prompt


async def test_tokenize_renders_the_prompt_of_the_chat(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        for template in (templates.PLAIN, templates.HERMES):
            with_template(served, template)
            messages = [USER, CALLING, RESULT]
            for fields in ({"tools": [WEATHER]}, {}, {"tools": [WEATHER], "tool_choice": "none"}):
                body = {"messages": messages, **fields}
                tokens = (await served.client.post("/tokenize", json=body)).json()["tokens"]
                response = await served.client.post(
                    "/v1/chat/completions", json={**body, "return_token_ids": True}
                )
                assert message_of(response)["prompt_token_ids"] == tokens
            assert "Weather of a city." in await prompt_of(served, messages, tools=[WEATHER])
            none = await prompt_of(served, messages, tools=[WEATHER], tool_choice="none")
            assert "Weather of a city." not in none
            assert "20 degrees" in none


async def test_history_of_real_clients_is_accepted(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Fine.") as (served, _):
        answer = {
            **CALLING,
            "refusal": None,
            "annotations": [],
            "function_call": None,
            "audio": None,
        }
        assert (
            message_of(await chat(served, [USER, answer, RESULT, USER]))["finish_reason"] == "stop"
        )
        two = {**CALLING, "content": "ok", "tool_calls": [CALL, {**CALL, "id": "call_2"}]}
        results = [{**RESULT, "tool_call_id": "call_2"}, RESULT]
        assert (await chat(served, [USER, two, *results])).status_code == 200
        broken = {**CALL, "function": {"name": "get_weather", "arguments": "{not json"}}
        for arguments in ("", "[1]", "{not json"):
            broken["function"] = {"name": "get_weather", "arguments": arguments}
            history = [USER, {**CALLING, "tool_calls": [broken]}, RESULT]
            assert (await chat(served, history)).status_code == 200


# --- what is refused -----------------------------------------------------------------------------


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [tool(name="no spaces")]}, "invalid_value", "tools.0.function.name"),
        ({"tools": [tool(name="x" * 65)]}, "invalid_value", "tools.0.function.name"),
        ({"tools": [tool(name="")]}, "invalid_value", "tools.0.function.name"),
        ({"tools": [tool(), tool()]}, "invalid_value", "tools"),
        ({"tools": [tool(name=f"f{i}") for i in range(129)]}, "invalid_value", "tools"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools.0.function"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools.0.type"),
        ({"tools": [tool(parameters=[])]}, "invalid_value", "tools.0.function.parameters"),
        ({"tools": [tool(parameters={"type": "string"})]}, "invalid_schema",
         "tools.0.function.parameters"),
        ({"tools": [tool(description="x" * 300_000)]}, "invalid_value", "tools"),
        ({"tools": [tool(strict="yes")]}, "invalid_value", "tools.0.function.strict"),
        ({"tools": {}}, "invalid_value", "tools"),
        ({"tools": [], "tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "invalid_value",
         "tool_choice"),
        ({"tool_choice": "always"}, "invalid_value", "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "invalid_value", "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "unsupported_parameter", "tool_choice"),
        ({"parallel_tool_calls": "no"}, "invalid_value", "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
        ({"function_call": {"name": "f"}}, "unsupported_parameter", "function_call"),
        ({"tool_choice": "required", "structured_outputs": {"regex": "a"}}, "invalid_value",
         "structured_outputs.regex"),
        ({"tools": [tool(parameters={"properties": {"a": {"type": "nothing"}}})],
          "tool_choice": "required"}, "invalid_schema", "tools.0.function.parameters"),
    ],
)  # fmt: skip
async def test_wrong_tools_are_refused(
    tmp_path: Path, fields: dict[str, Any], code: str, param: str
) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        refused(await chat(served, **fields), 400, code, param)
        nothing_left(served)


@pytest.mark.parametrize(
    ("messages", "code", "param"),
    [
        ([RESULT], "invalid_value", "messages.0.tool_call_id"),
        ([USER, RESULT], "invalid_value", "messages.1.tool_call_id"),
        ([USER, CALLING], "invalid_value", "messages.1.tool_calls"),
        ([USER, CALLING, USER], "invalid_value", "messages.1.tool_calls"),
        ([USER, CALLING, {**RESULT, "tool_call_id": "x"}], "invalid_value",
         "messages.2.tool_call_id"),
        ([USER, CALLING, RESULT, RESULT], "invalid_value", "messages.3.tool_call_id"),
        ([USER, CALLING, {"role": "tool", "content": "x"}], "missing_required_parameter",
         "messages.2"),
        ([USER, {**CALLING, "tool_calls": [CALL, CALL]}, RESULT], "invalid_value",
         "messages.1.tool_calls.1.id"),
        ([USER, {**CALLING, "tool_calls": [{"id": "1", "type": "function"}]}],
         "missing_required_parameter", "messages.1.tool_calls.0.function"),
        ([USER, {**CALLING, "tool_calls": [{**CALL, "type": "custom"}]}], "unsupported_parameter",
         "messages.1.tool_calls.0.type"),
        ([{**USER, "tool_calls": [CALL]}], "invalid_value", "messages.0"),
        ([USER, {"role": "assistant", "function_call": {"name": "f", "arguments": ""}}],
         "unsupported_parameter", "messages.1"),
        ([USER, {"role": "function", "name": "f", "content": "x"}], "invalid_value",
         "messages.1.role"),
    ],
)  # fmt: skip
async def test_messages_out_of_order_are_refused(
    tmp_path: Path, messages: list[Any], code: str, param: str
) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        refused(await chat(served, messages), 400, code, param)
        nothing_left(served)


async def test_legacy_functions_name_what_to_use(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        error = error_of(await chat(served, functions=[{"name": "f"}]))
        assert "tools" in error["hint"]
        neutral = await chat(served, functions=[], function_call="auto")
        assert neutral.status_code == 200


async def test_a_model_without_a_template_has_no_tools(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a", chat=False) as (served, _):
        refused(await chat(served), 400, "not_supported_by_model", "messages")


async def test_unknown_fields_of_tools_are_named(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        odd = {**tool(more=1), "cache_control": {}}
        response = await chat(served, tools=[odd])
        assert response.headers["x-ignored-params"] == "tools.cache_control,tools.function.more"


# --- grammars and reasoning ----------------------------------------------------------------------


async def test_the_engine_gets_the_grammar_of_the_message(tmp_path: Path) -> None:
    grammars: list[str | None] = []

    def script(prompt: list[int], sampling: SamplingParams) -> list[int]:
        grammars.append(sampling.grammar)
        return [ord("a")]

    async with serve_script(tmp_path, script) as (served, _):
        for fields in (
            {"tool_choice": "none"}, {"tool_choice": "required"}, {},
            {"response_format": {"type": "json_object"}}, {"tools": None},
            {"tools": None, "response_format": {"type": "json_object"}},
        ):  # fmt: skip
            assert (await chat(served, max_tokens=1, **fields)).status_code == 200
    none, required, auto, both, free, content = grammars
    assert none is None
    assert free is None
    assert required is not None
    assert "get_weather" in required
    assert "FREE" not in required
    assert auto is not None
    assert "FREE" in auto
    assert both is not None
    assert "get_weather" in both
    assert "FREE" not in both
    assert content is not None
    assert "get_weather" not in content


THINKS = "<think>\nHm, é.\n</think>\n\nHello."


async def test_reasoning_is_split_off_and_counted(tmp_path: Path) -> None:
    async with serve_script(tmp_path, THINKS) as (served, _):
        with_template(served, templates.QWEN3)
        response = await chat(served, tools=[])
        message = message_of(response)["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm, é.", "Hello.")
        count = len(THINKS.encode()) - len("\n\nHello.")
        details = response.json()["usage"]["completion_tokens_details"]
        assert details["reasoning_tokens"] == count
        events = records(
            await chat(served, tools=[], stream=True, stream_options={"include_usage": True})
        )
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm, é."
        assert "".join(d.get("content", "") for d in deltas) == "Hello."
        assert events[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == count


async def test_reasoning_that_the_prompt_begins_or_ends(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hm.</think>Hello.") as (served, _):
        with_template(served, templates.THINKER)
        message = message_of(await chat(served, tools=[]))["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hello.")
        with_template(served, templates.QWEN3)
        off = {"enable_thinking": False}
        message = message_of(await chat(served, tools=[], chat_template_kwargs=off))["message"]
        assert message["content"] == "Hm.</think>Hello."
        with_template(served, templates.PLAIN)
        message = message_of(await chat(served, tools=[]))["message"]
        assert message["content"] == "Hm.</think>Hello."


async def test_models_say_what_they_can(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        expected = [
            (templates.PLAIN, ["completion", "chat", "tools"], "generic", "hermes"),
            (templates.LLAMA, ["completion", "chat", "tools"], "native", "llama"),
            (templates.QWEN3, ["completion", "chat", "tools", "reasoning"], "native", "hermes"),
        ]
        for template, *abilities in expected:
            with_template(served, template)
            (model,) = (await served.client.get("/v1/models")).json()["data"]
            assert [model["capabilities"], model["tools"], model["tool_format"]] == abilities
