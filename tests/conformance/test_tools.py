"""Tool calls through a real server and the official client: forced calls follow their schemas."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.conformance.tool_schemas import follows, random_tool

SMOLLM2 = Path(__file__).parents[2] / "models" / "smollm2.gguf"
USER: Any = [{"role": "user", "content": "Please help me with my trip to Rome on Monday."}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = write_tiny_llama(tmp_path_factory.mktemp("tools") / "tiny")
    with serve_process(folder, "--dtype", "float32") as served:
        yield client_of(served)


def client_of(served: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def model_of(client: OpenAI) -> str:
    return client.models.list().data[0].id


def forced_calls(client: OpenAI, tools: list[Any], choice: Any, **fields: Any) -> list[Any]:
    """Calls of an answer, checked against their schemas; streamed the same ones come. (A model of
    random numbers may write a number without end, which is then cut.)"""
    options: dict[str, Any] = {
        "model": model_of(client), "messages": USER, "tools": tools, "tool_choice": choice,
        "max_tokens": 400, "seed": 5, **fields,
    }  # fmt: skip
    answer = client.chat.completions.create(**options).choices[0]
    calls = [call.function for call in answer.message.tool_calls or ()]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    cut = answer.finish_reason == "length"
    for call in calls[: len(calls) - cut]:
        assert follows(json.loads(call.arguments), schemas[call.name]), call
    assert not answer.message.content
    assert cut or answer.finish_reason == "tool_calls"
    streamed: list[tuple[str, str]] = []
    for chunk in client.chat.completions.create(**options, stream=True):
        for piece in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            if piece.id:
                streamed.append((piece.function.name, ""))
            name, arguments = streamed[piece.index]
            streamed[piece.index] = (name, arguments + piece.function.arguments)
    assert streamed == [(call.name, call.arguments) for call in calls]
    return calls


def named(tool: Any) -> Any:
    return {"type": "function", "function": {"name": tool["function"]["name"]}}


def test_a_named_function_is_called_once_as_its_schema_says(client: OpenAI) -> None:
    for seed in range(8):
        tool = random_tool(seed)
        (call,) = forced_calls(client, [tool, random_tool(seed + 100)], named(tool))
        assert call.name == tool["function"]["name"]


def test_the_clients_stream_helper_reads_calls(client: OpenAI) -> None:
    parameters = {"type": "object", "properties": {"mode": {"enum": ["a", "b"]}},
                  "required": ["mode"]}  # fmt: skip
    tool: Any = {"type": "function", "function": {"name": "set_mode", "parameters": parameters}}
    with client.chat.completions.stream(
        model=model_of(client), messages=USER, tools=[tool], tool_choice=named(tool)
    ) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == ["set_mode"]
    assert json.loads(done[0].arguments)["mode"] in ("a", "b")


def test_required_makes_at_least_one_call(client: OpenAI) -> None:
    tools = [random_tool(seed) for seed in range(3)]
    assert forced_calls(client, tools, "required", temperature=1.5)
    assert len(forced_calls(client, tools, "required", parallel_tool_calls=False)) == 1


def test_the_same_call_alone_and_beside_others(client: OpenAI) -> None:
    tool = random_tool(3)
    options: dict[str, Any] = {
        "model": model_of(client), "messages": USER, "tools": [tool],
        "tool_choice": named(tool), "max_tokens": 200, "seed": 9, "temperature": 1.0,
    }  # fmt: skip
    alone = client.chat.completions.create(**options).choices[0].message.tool_calls or []
    among = client.chat.completions.create(**options, n=4).choices
    first = among[0].message.tool_calls or []
    assert [call.function for call in first] == [call.function for call in alone]
    assert len({str(choice.message.tool_calls) for choice in among}) > 1


def test_a_conversation_with_results_goes_on(client: OpenAI) -> None:
    tool = random_tool(1)
    model = model_of(client)
    asked = client.chat.completions.create(
        model=model, messages=USER, tools=[tool], tool_choice="required", max_tokens=300,
        parallel_tool_calls=False,
    ).choices[0].message  # fmt: skip
    assert asked.tool_calls is not None
    result: Any = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "done"}
    answer = client.chat.completions.create(
        model=model, messages=[*USER, asked, result], tools=[tool], tool_choice="none", max_tokens=8
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content is not None


def test_a_schema_that_is_not_possible_names_its_tool(client: OpenAI) -> None:
    bad: Any = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"pattern": "(?=x)"}}}},
    }
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=model_of(client), messages=USER, tools=[random_tool(1), bad],
            tool_choice="required",
        )  # fmt: skip
    assert (caught.value.code, caught.value.param) == (
        "invalid_schema",
        "tools.1.function.parameters",
    )


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.is_file(), reason="needs shoal pull smollm2")
def test_every_forced_call_of_a_real_model_follows_its_schema(tmp_path: Path) -> None:
    for file in SMOLLM2.parent.glob("smollm2.*"):  # the log goes beside the model
        (tmp_path / file.name).symlink_to(file)
    with serve_process(tmp_path / SMOLLM2.name) as served:
        client = client_of(served)
        for seed in range(50):
            tool = random_tool(seed)
            (call,) = forced_calls(client, [tool], named(tool), temperature=0)
            assert follows(json.loads(call.arguments), tool["function"]["parameters"])
            others = [tool, random_tool(seed + 50), random_tool(seed + 100)]
            single = {"parallel_tool_calls": False, "temperature": 1.0}
            (call,) = forced_calls(client, others, "required", **single)
            assert isinstance(json.loads(call.arguments), dict)
