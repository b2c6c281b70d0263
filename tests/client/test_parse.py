"""Python types as response_format: the schema that is sent, and what comes back."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from shoal.client import ParseFailed
from shoal.client.testing import MockServer, completion_json
from tests.client.both import MESSAGES, Sdk, both


class Street(BaseModel):
    name: str
    number: int = 1


class Person(BaseModel):
    name: str
    streets: list[Street]


@dataclass
class Point:
    x: int
    y: int | None = None


ANN = '{"name": "Ann", "streets": [{"name": "Elm", "number": 3}]}'


@both
async def test_a_class_is_sent_as_a_strict_schema_and_read_back(sdk: Sdk) -> None:
    server = MockServer()
    server.chat(ANN)
    server.completion(ANN)
    client = sdk.client(server)
    said = await sdk.do(client.chat.parse(MESSAGES, response_format=Person, temperature=0))
    continued = await sdk.do(client.completions.parse("x", Person))
    assert (
        said.parsed
        == continued.parsed
        == Person(name="Ann", streets=[Street(name="Elm", number=3)])
    )
    assert said.choices[0].parsed == said.parsed
    for seen in server.requests:
        sent = seen.json["response_format"]
        assert sent["type"] == "json_schema"
        assert (sent["json_schema"]["name"], sent["json_schema"]["strict"]) == ("Person", True)
        schema = sent["json_schema"]["schema"]
        street = schema["$defs"]["Street"]
        assert schema["required"] == ["name", "streets"]
        assert street["required"] == ["name", "number"]  # also what has a default
        assert schema["additionalProperties"] is street["additionalProperties"] is False
    assert server.requests[0].json["temperature"] == 0


@both
async def test_a_stream_is_read_at_its_end(sdk: Sdk) -> None:
    server = MockServer()
    server.chat_stream(ANN[:9], ANN[9:])
    server.completion_stream(ANN[:9], ANN[9:])
    client = sdk.client(server)
    chat = await sdk.do(client.chat.parse(MESSAGES, response_format=Person, stream=True))
    assert "".join(await sdk.all(chat.text_deltas())) == ANN
    assert (await sdk.do(chat.final())).parsed.name == "Ann"
    completion = await sdk.do(client.completions.parse("x", Person, stream=True))
    assert (await sdk.do(completion.final())).parsed.streets[0].number == 3


@both
@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (list[int], "[1, 2]", [1, 2]),
        (Point, '{"x": 1, "y": null}', Point(1)),
        (dict[str, list[Point]], '{"a": [{"x": 1, "y": 2}]}', {"a": [Point(1, 2)]}),
    ],
)
async def test_other_types_that_pydantic_reads_will_do(
    sdk: Sdk, kind: Any, text: str, value: Any
) -> None:
    server = MockServer()
    server.chat(text)
    result = await sdk.do(sdk.client(server).chat.parse(MESSAGES, response_format=kind))
    assert result.parsed == value
    assert server.requests[0].json["response_format"]["json_schema"]["schema"]


@both
async def test_create_takes_a_class_and_reads_when_asked(sdk: Sdk) -> None:
    server = MockServer()
    server.chat(ANN)
    server.chat("not JSON")
    server.chat(ANN)
    client = sdk.client(server)
    assert (await sdk.do(client.chat.create(MESSAGES, response_format=Person))).parsed.name == "Ann"
    unread = await sdk.do(client.chat.create(MESSAGES, response_format=Person))
    assert unread.text == "not JSON"
    with pytest.raises(ParseFailed):
        _ = unread.parsed
    given = {"type": "json_object"}
    plain = await sdk.do(client.chat.create(MESSAGES, response_format=given))
    assert server.requests[-1].json["response_format"] == given
    with pytest.raises(TypeError, match="no class"):
        _ = plain.parsed


@both
async def test_a_text_that_does_not_fit_says_why(sdk: Sdk) -> None:
    server = MockServer()
    server.chat('{"name": 3, "streets": []}')
    server.reply(completion_json("", choices=[
        {"index": 0, "text": '{"name": "An', "finish_reason": "length"},
    ]))  # fmt: skip
    client = sdk.client(server)
    with pytest.raises(ParseFailed, match="name: Input should be a valid string") as wrong:
        await sdk.do(client.chat.parse(MESSAGES, response_format=Person))
    assert wrong.value.text == '{"name": 3, "streets": []}'
    assert wrong.value.request_id == server.requests[0].headers["x-request-id"]
    with pytest.raises(ParseFailed, match="higher max_tokens") as cut:
        await sdk.do(client.completions.parse("x", Person))
    assert cut.value.finish_reason == "length"


@both
async def test_every_choice_is_read(sdk: Sdk) -> None:
    server = MockServer()
    choices = [
        {"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(["1", "x"])
    ]
    server.reply(completion_json("", choices=choices))
    server.reply(completion_json("", choices=choices))
    client = sdk.client(server)
    with pytest.raises(ParseFailed):
        await sdk.do(client.completions.parse("x", int, n=2))
    result = await sdk.do(client.completions.create("x", response_format=int, n=2))
    assert result.parsed == result.choices[0].parsed == 1


@both
async def test_what_is_no_type_is_refused_before_sending(sdk: Sdk) -> None:
    server = MockServer()
    client = sdk.client(server)
    for wrong in ({"type": "text"}, None, "Person", 3):
        with pytest.raises(TypeError, match="response_format"):
            await sdk.do(client.chat.parse(MESSAGES, response_format=wrong))
    assert server.requests == []


@both
async def test_a_call_of_a_tool_comes_before_the_answer(sdk: Sdk) -> None:
    server = MockServer()
    server.tool_calls(add={"a": 1})
    result = await sdk.do(sdk.client(server).chat.parse(MESSAGES, Person, tools=[print_it]))
    assert result.tool_calls[0].function.name == "add"
    with pytest.raises(ParseFailed):
        _ = result.parsed


def print_it(text: str) -> None:
    """Prints."""
