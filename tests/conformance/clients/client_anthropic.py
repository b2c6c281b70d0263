"""anthropic-sdk-python against /v1/messages."""

import anthropic
from harness import (
    MESSAGES,
    MODEL,
    PERSON,
    URL,
    WEATHER,
    check,
    check_person,
    check_weather,
    feature,
    run,
)

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
GREEDY = {"temperature": 0}  # newer versions of the client have no argument for it
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": WEATHER["function"]["parameters"],
}


@feature("anthropic messages")
def messages() -> None:
    answer = client.messages.create(
        model=MODEL, max_tokens=20, messages=MESSAGES, system="Be brief."
    )
    check(answer.content[0].text and answer.usage.output_tokens > 0, answer)


@feature("anthropic messages streamed")
def streamed() -> None:
    with client.messages.stream(model=MODEL, max_tokens=20, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check(text == final.content[0].text and final.stop_reason, final)


@feature("tools")
def tools() -> None:
    answer = client.messages.create(
        model=MODEL, max_tokens=100, messages=MESSAGES, tools=[TOOL], tool_choice={"type": "any"}
    )
    call = answer.content[-1]
    check(answer.stop_reason == "tool_use" and call.type == "tool_use", answer)
    check_weather(call.name, call.input)
    history = [
        *MESSAGES,
        {"role": "assistant", "content": answer.content},
        {"role": "user",
         "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]  # fmt: skip
    client.messages.create(model=MODEL, max_tokens=10, messages=history, tools=[TOOL])


@feature("count tokens")
def count() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES)
    check(counted.input_tokens > 5, counted)


@feature("errors")
def errors() -> None:
    try:
        client.messages.create(model="nobody", max_tokens=5, messages=MESSAGES)
    except anthropic.NotFoundError:
        return
    raise AssertionError("no NotFoundError")


@feature("anthropic messages: stream equals plain")
def equal() -> None:
    asked = {"model": MODEL, "max_tokens": 16, "messages": MESSAGES, "extra_body": GREEDY}
    plain = client.messages.create(**asked)
    check(plain._request_id and plain.stop_reason in ("end_turn", "max_tokens"), plain)
    events = list(client.messages.create(**asked, stream=True))
    text = "".join(e.delta.text for e in events if e.type == "content_block_delta")
    check(text == plain.content[0].text, text)


@feature("anthropic messages: stop sequence")
def stop_sequence() -> None:
    asked = {"model": MODEL, "max_tokens": 40, "messages": MESSAGES, "extra_body": GREEDY}
    whole = client.messages.create(**asked).content[0].text
    stop = whole[3:5]
    answer = client.messages.create(**asked, stop_sequences=[stop])
    check((answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop), answer)
    check(answer.content[0].text == whole[: whole.index(stop)], answer)


@feature("tools streamed")
def tools_streamed() -> None:
    with client.messages.stream(
        model=MODEL, max_tokens=100, messages=MESSAGES, tools=[TOOL],
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:  # fmt: skip
        call = stream.get_final_message().content[-1]
    check_weather(call.name, call.input)


@feature("structured output")
def structured() -> None:
    answer = client.messages.create(
        model=MODEL, max_tokens=100, messages=MESSAGES,
        output_config={"format": {"type": "json_schema", "schema": PERSON}},
    )  # fmt: skip
    check_person(answer.content[0].text)


run()
