# client: openai
"""openai-python's client.responses: create, stream, parse."""

import openai
from checks import Server, raises, report
from openai import OpenAI
from pydantic import BaseModel


class Trip(BaseModel):
    """What an answer is parsed into."""

    days: int


def client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def plain(server: Server) -> None:
    answer = client(server).responses.create(
        model=server.model, input="Hi", instructions="Be short", max_output_tokens=8
    )
    assert answer.object == "response"
    assert answer.status in ("completed", "incomplete")
    assert isinstance(answer.output_text, str)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def items(server: Server) -> None:
    first = client(server).responses.create(model=server.model, input="Hi", max_output_tokens=8)
    again = client(server).responses.create(
        model=server.model,
        input=[
            {"role": "user", "content": "Hi"},
            *first.output,
            {"role": "user", "content": [{"type": "input_text", "text": "More"}]},
        ],
        max_output_tokens=8,
    )
    assert again.usage.input_tokens > first.usage.input_tokens


def streamed(server: Server) -> None:
    asked = {"model": server.model, "input": "Hi", "max_output_tokens": 12, "temperature": 0}
    plain = client(server).responses.create(**asked)
    events = list(client(server).responses.create(**asked, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == plain.output_text
    assert events[-1].response.output_text == plain.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def stream_helper(server: Server) -> None:
    asked = {"model": server.model, "input": "Hi", "temperature": 0}
    with client(server).responses.stream(**asked, max_output_tokens=1) as stream:
        types = [event.type for event in stream]
    assert types[0] == "response.created"
    assert types[-1] in ("response.completed", "response.incomplete")


def logprobs(server: Server) -> None:
    answer = client(server).responses.create(
        model=server.model, input="Hi", max_output_tokens=4, top_logprobs=3,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    entries = answer.output[0].content[0].logprobs
    assert len(entries) == answer.usage.output_tokens
    assert len(entries[0].top_logprobs) == 3


def errors(server: Server) -> None:
    responses = client(server).responses
    error = raises(
        openai.BadRequestError,
        lambda: responses.create(model=server.model, input="Hi", previous_response_id="resp_1"),
    )
    assert error.param == "previous_response_id"
    raises(openai.NotFoundError, lambda: responses.create(model="other", input="Hi"))
    raises(openai.NotFoundError, lambda: responses.retrieve("resp_1"))


def parsed(server: Server) -> None:
    answer = client(server).responses.parse(
        model=server.model, input="How many days?", text_format=Trip, max_output_tokens=200
    )
    assert isinstance(answer.output_parsed, Trip)


TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": Trip.model_json_schema() | {"additionalProperties": False},
    "strict": True,
}


def tool_call(server: Server) -> None:
    asked = {"model": server.model, "tools": [TOOL], "max_output_tokens": 200}
    history = [{"role": "user", "content": "Weather?"}]
    answer = client(server).responses.create(input=history, tool_choice="required", **asked)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "weather"
    Trip.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sun"}
    again = client(server).responses.create(
        input=[*history, call, result], tool_choice="none", **asked | {"max_output_tokens": 8}
    )
    assert again.usage.input_tokens > answer.usage.input_tokens


def streamed_tool_call(server: Server) -> None:
    with client(server).responses.stream(
        model=server.model, input="Weather?", tools=[TOOL], tool_choice="required",
        max_output_tokens=200,
    ) as stream:  # fmt: skip
        answer = stream.get_final_response()
    (call,) = [item for item in answer.output if item.type == "function_call"]
    Trip.model_validate_json(call.arguments)


report(
    {
        "plain": plain,
        "history of items": items,
        "streamed": streamed,
        "stream helper": stream_helper,
        "log-probabilities": logprobs,
        "errors": errors,
        "parse into a class": parsed,
        "tool call": tool_call,
        "streamed tool call": streamed_tool_call,
    }
)
