"""openai-python, latest and the last 1.x."""

import openai
from harness import (
    MESSAGES,
    MODEL,
    PERSON,
    PROMPT,
    URL,
    WEATHER,
    check,
    check_person,
    check_weather,
    feature,
    run,
)
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


class Person(BaseModel):
    name: str
    age: int


@feature("models")
def models() -> None:
    names = [model.id for model in client.models.list()]
    check(MODEL in names, names)
    check(client.models.retrieve(MODEL).id == MODEL, MODEL)


@feature("completions")
def completions() -> None:
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0)
    check("Paris" in answer.choices[0].text, answer)


@feature("completions streamed")
def completions_streamed() -> None:
    stream = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in stream)
    check("Paris" in text, text)


@feature("log-probs")
def logprobs() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    check(len(content) >= 1 and len(content[0].top_logprobs) == 3, content)


@feature("chat")
def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20, n=2)
    check(len(answer.choices) == 2 and answer.choices[0].message.content, answer)


@feature("chat streamed")
def chat_streamed() -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=20, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    check(chunks[-1].usage.completion_tokens >= 1, chunks[-1])


@feature("structured output")
def structured() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=100,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON, "strict": True},
        },
    )  # fmt: skip
    check_person(answer.choices[0].message.content)


@feature("parse into a class")
def parse() -> None:
    call = getattr(client.chat.completions, "parse", None) or client.beta.chat.completions.parse
    answer = call(
        model=MODEL, messages=MESSAGES, max_tokens=200, temperature=0, response_format=Person
    )
    check(isinstance(answer.choices[0].message.parsed, Person), answer)


@feature("tools")
def tools() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=100, tools=[WEATHER], tool_choice="required"
    )
    choice = answer.choices[0]
    check(choice.finish_reason == "tool_calls", choice)
    call = choice.message.tool_calls[0]
    check_weather(call.function.name, call.function.arguments)
    history = [
        *MESSAGES,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    after = client.chat.completions.create(
        model=MODEL, messages=history, max_tokens=10, tools=[WEATHER]
    )
    check(after.choices[0].finish_reason in ("stop", "length", "tool_calls"), after)


@feature("tools streamed")
def tools_streamed() -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=100, tools=[WEATHER], stream=True,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )  # fmt: skip
    name, arguments = None, ""
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            name = name or call.function.name
            arguments += call.function.arguments or ""
    check_weather(name, arguments)


@feature("responses")
def responses() -> None:
    answer = client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=20)
    check(answer.output_text, answer)


@feature("responses streamed")
def responses_streamed() -> None:
    text, types = "", []
    for event in client.responses.create(
        model=MODEL, input="Hello!", max_output_tokens=20, stream=True
    ):
        types.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    check(text and types[0] == "response.created", types)
    check(types[-1] in ("response.completed", "response.incomplete"), types)


@feature("errors")
def errors() -> None:
    for body, kind in (
        ({"model": "nobody"}, openai.NotFoundError),
        ({"model": MODEL, "temperature": 3}, openai.BadRequestError),
    ):
        try:
            client.chat.completions.create(messages=MESSAGES, **body)
        except kind as error:
            check(error.code, error)
            continue
        raise AssertionError(f"{body} was accepted")


@feature("async")
async def asynchronous() -> None:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as own:
        answer = await own.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8)
    check(answer.choices[0].message.content, answer)


run()
