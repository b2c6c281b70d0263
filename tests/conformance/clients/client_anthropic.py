"""anthropic-sdk-python against /v1/messages."""

import anthropic
from harness import MESSAGES, MODEL, URL, WEATHER, check, check_weather, feature, run

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
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


run()
