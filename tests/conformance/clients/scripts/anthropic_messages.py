# client: anthropic
"""anthropic-sdk-python: messages.create, stream, count_tokens."""

import anthropic
from anthropic import Anthropic
from checks import WEATHER, Server, raises, report

HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0}  # newer versions of the client have no argument for it
TOOL = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}


def client(server: Server) -> Anthropic:
    return Anthropic(base_url=server.url, api_key="none", max_retries=0)


def plain(server: Server) -> None:
    answer = client(server).messages.create(
        model=server.model,
        max_tokens=8,
        messages=HI,
        system="Be short",
        extra_body={"temperature": 0.5, "top_k": 5},
    )
    assert answer.type == "message"
    assert answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.output_tokens <= 8
    assert answer._request_id


def streamed(server: Server) -> None:
    asked = {"model": server.model, "max_tokens": 12, "messages": HI, "extra_body": GREEDY}
    plain = client(server).messages.create(**asked)
    events = list(client(server).messages.create(**asked, stream=True))
    texts = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(texts) == plain.content[0].text
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"


def stream_helper(server: Server) -> None:
    asked = {"model": server.model, "max_tokens": 12, "messages": HI, "extra_body": GREEDY}
    with client(server).messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert final.usage.output_tokens > 0


def history(server: Server) -> None:
    first = client(server).messages.create(model=server.model, max_tokens=8, messages=HI)
    again = [*HI, {"role": "assistant", "content": first.content}, *HI]
    answer = client(server).messages.create(model=server.model, max_tokens=8, messages=again)
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0


def count_tokens(server: Server) -> None:
    counted = client(server).messages.count_tokens(model=server.model, messages=HI)
    usage = client(server).messages.create(model=server.model, max_tokens=1, messages=HI).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def stop_sequence(server: Server) -> None:
    asked = {"model": server.model, "max_tokens": 40, "messages": HI, "extra_body": GREEDY}
    whole = client(server).messages.create(**asked).content[0].text
    stop = whole[3:5]
    answer = client(server).messages.create(**asked, stop_sequences=[stop])
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence == stop
    assert answer.content[0].text == whole[: whole.index(stop)]


def errors(server: Server) -> None:
    create = client(server).messages.create
    asked = {"model": server.model, "messages": HI}
    error = raises(anthropic.BadRequestError, lambda: create(**asked, max_tokens=0))
    assert error.body["error"]["type"] == "invalid_request_error"
    assert error.request_id
    raises(anthropic.NotFoundError, lambda: create(model="other", max_tokens=1, messages=HI))


def tool_call(server: Server) -> None:
    asked = {"model": server.model, "max_tokens": 200, "tools": [TOOL]}
    answer = client(server).messages.create(messages=HI, tool_choice={"type": "any"}, **asked)
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "weather"
    assert set(call.input) == {"city", "days"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sun"}
    messages = [*HI, {"role": "assistant", "content": answer.content},
                {"role": "user", "content": [result]}]  # fmt: skip
    again = client(server).messages.create(messages=messages, tool_choice={"type": "none"},
                                           **asked | {"max_tokens": 8})  # fmt: skip
    assert again.stop_reason in ("end_turn", "max_tokens")


def streamed_tool_call(server: Server) -> None:
    with client(server).messages.stream(
        model=server.model, max_tokens=200, messages=HI, tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather"},
    ) as stream:  # fmt: skip
        answer = stream.get_final_message()
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert set(call.input) == {"city", "days"}


def json_answer(server: Server) -> None:
    answer = client(server).messages.create(
        model=server.model, max_tokens=200, messages=HI,
        output_config={"format": {"type": "json_schema", "schema": WEATHER}},
    )  # fmt: skip
    assert answer.content[0].text.startswith("{")


report(
    {
        "plain": plain,
        "streamed": streamed,
        "stream helper": stream_helper,
        "history": history,
        "count_tokens": count_tokens,
        "stop sequence": stop_sequence,
        "errors": errors,
        "tool call": tool_call,
        "streamed tool call": streamed_tool_call,
        "answer by a schema": json_answer,
    }
)
