"""Functions as tools: their schemas, and the rounds of calls."""

import asyncio
import json
import threading
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from shoal.client import AsyncClient, ParseFailed, ToolError, ToolRoundsExceeded, tool
from shoal.client.testing import MockServer
from tests.client.both import MESSAGES, Sdk, both


class Place(BaseModel):
    city: str
    land: str = "de"


def weather(place: Place, unit: Literal["C", "F"] = "C") -> dict[str, Any]:
    """The weather
    of a place.

    More about it.

    Args:
        place: Where,
            exactly.
        unit (str): Degrees.

    Returns:
        unit: not an argument
    """
    return {"city": place.city, "degrees": 20, "unit": unit}


@tool
def add(a: int, b: Annotated[int, Field(description="the second")] = 2) -> int:
    """Adds."""
    return a + b


@tool(name="find-it", description="Searches.", strict=True)
def search(json: str, *, copy: bool | None = None) -> str:
    if json == "broken":
        raise ToolError("the index is broken")
    if json == "bug":
        raise KeyError(json)
    return f"found {json}"


def test_the_schema_comes_from_signature_and_docstring() -> None:
    server = MockServer()
    server.chat("ok")
    server.client().chat.create(MESSAGES, tools=[weather, add, search, {"type": "mine"}])
    first, second, third, mine = server.requests[0].json["tools"]
    assert first["function"]["name"] == "weather"
    assert first["function"]["description"] == "The weather of a place."
    schema = first["function"]["parameters"]
    assert schema["properties"]["place"]["description"] == "Where, exactly."
    assert schema["properties"]["unit"] == {
        "type": "string", "enum": ["C", "F"], "default": "C", "description": "Degrees."
    }  # fmt: skip
    assert schema["required"] == ["place"]
    assert schema["$defs"]["Place"]["properties"]["city"]["type"] == "string"
    assert second["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "integer", "description": "the second", "default": 2},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    function = third["function"]
    assert (function["name"], function["description"], function["strict"]) == (
        "find-it", "Searches.", True,
    )  # fmt: skip
    assert set(function["parameters"]["properties"]) == {"json", "copy"}
    assert mine == {"type": "mine"}


def test_a_tool_is_still_its_function() -> None:
    assert (add(1), add(1, b=5), search(json="x")) == (3, 6, "found x")


@pytest.mark.parametrize("wrong", [print, lambda *args: 0, lambda **kwargs: 0, lambda a, /: 0])
def test_functions_that_cannot_be_called_by_name_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="by name"):
        tool(wrong)


@both
async def test_calls_are_run_until_the_model_answers(sdk: Sdk) -> None:
    server = MockServer()
    server.tool_calls(weather={"place": {"city": "Bonn"}}, add={"a": 40})
    server.tool_calls(**{"find-it": {"json": "x"}})
    server.chat("20 degrees")
    client = sdk.client(server)
    run = await sdk.do(
        client.chat.run_tools(
            MESSAGES, tools=[weather, add, search], tool_choice="required", temperature=0
        )
    )
    assert run.text == "20 degrees"
    assert len(run.completions) == 3
    last = server.requests[-1].json
    assert [message["role"] for message in last["messages"]] == [
        "user", "assistant", "tool", "tool", "assistant", "tool",
    ]  # fmt: skip
    shown = {m["tool_call_id"]: m["content"] for m in last["messages"] if m["role"] == "tool"}
    assert json.loads(last["messages"][2]["content"]) == {
        "city": "Bonn", "degrees": 20, "unit": "C"
    }  # fmt: skip
    assert shown["call_1"] == "42"
    assert shown["call_0"] == "found x"
    assert len(run.messages) == len(last["messages"]) + 1
    assert [seen.json.get("tool_choice") for seen in server.requests] == ["required", None, None]
    assert {seen.json["temperature"] for seen in server.requests} == {0}
    assert [len(seen.json["messages"]) for seen in server.requests] == [1, 4, 6]
    assert len(MESSAGES) == 1


@both
async def test_mistakes_of_the_model_are_told_to_it(sdk: Sdk) -> None:
    server = MockServer()
    server.tool_calls(add={"a": "many"}, weather={}, subtract={}, **{"find-it": {"json": "broken"}})
    server.chat("sorry")
    run = await sdk.do(sdk.client(server).chat.run_tools(MESSAGES, tools=[weather, add, search]))
    told = [
        json.loads(m["content"])["error"]
        for m in run.messages
        if isinstance(m, dict) and m["role"] == "tool"
    ]
    assert "a: Input should be a valid integer" in told[0]
    assert "place: Field required" in told[1]
    assert told[2] == "there is no tool 'subtract'; there are weather, add, find-it"
    assert told[3] == "the index is broken"


@both
async def test_other_errors_of_a_function_are_the_callers(sdk: Sdk) -> None:
    server = MockServer()
    server.tool_calls(**{"find-it": {"json": "bug"}})
    with pytest.raises(KeyError):
        await sdk.do(sdk.client(server).chat.run_tools(MESSAGES, tools=[search]))


@both
async def test_rounds_are_limited(sdk: Sdk) -> None:
    server = MockServer()
    for _ in range(3):
        server.tool_calls(add={"a": 1})
    client = sdk.client(server)
    with pytest.raises(ToolRoundsExceeded, match="after 2 rounds") as caught:
        await sdk.do(client.chat.run_tools(MESSAGES, tools=[add], max_rounds=2))
    assert len(server.requests) == 3
    assert len(caught.value.messages) == 6
    with pytest.raises(ValueError, match="max_rounds"):
        await sdk.do(client.chat.run_tools(MESSAGES, tools=[add], max_rounds=0))
    with pytest.raises(ValueError, match="two tools"):
        await sdk.do(client.chat.run_tools(MESSAGES, tools=[add, add]))
    with pytest.raises(TypeError, match="must be a function"):
        await sdk.do(client.chat.run_tools(MESSAGES, tools=["add"]))


@both
async def test_the_last_answer_can_have_a_class(sdk: Sdk) -> None:
    server = MockServer()
    server.tool_calls(add={"a": 1})
    server.chat('{"city": "Bonn", "land": "de"}')
    server.chat("x")
    client = sdk.client(server)
    run = await sdk.do(client.chat.run_tools(MESSAGES, tools=[add], response_format=Place))
    assert run.parsed == Place(city="Bonn")
    run = await sdk.do(client.chat.run_tools(MESSAGES, tools=[add], response_format=Place))
    with pytest.raises(ParseFailed):
        _ = run.parsed


async def test_async_functions_are_awaited_and_others_leave_the_loop_free() -> None:
    async def slow(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    def thread() -> str:
        return threading.current_thread().name

    server = MockServer()
    server.tool_calls(slow={"a": 1}, thread={})
    server.chat("ok")
    run = await server.async_client().chat.run_tools(MESSAGES, tools=[slow, thread])
    contents = [message["content"] for message in run.messages[2:4]]
    assert contents[0] == "2"
    assert contents[1] != threading.current_thread().name
    with pytest.raises(TypeError, match="use AsyncClient"):
        server.client().chat.run_tools(MESSAGES, tools=[slow])
    assert isinstance(server.async_client(), AsyncClient)


@both
async def test_streamed_calls_arrive_whole(sdk: Sdk) -> None:
    server = MockServer()
    server.tool_calls_stream(add={"a": 1, "b": 2}, weather={"place": {"city": "Bonn"}})
    stream = await sdk.do(sdk.client(server).chat.create(MESSAGES, stream=True, tools=[add]))
    whole = await sdk.do(stream.final())
    assert whole.finish_reason == "tool_calls"
    assert [call.function.name for call in whole.tool_calls] == ["add", "weather"]
    assert whole.tool_calls[0].parse_arguments() == {"a": 1, "b": 2}
    assert whole.message.content is None
    whole.tool_calls[0].function.arguments = "[1]"
    with pytest.raises(ValueError, match="not a JSON object"):
        whole.tool_calls[0].parse_arguments()
