"""openai-python, latest and the last 1.x."""

import openai
from harness import (
    ENCODER,
    MESSAGES,
    MODEL,
    PERSON,
    PROMPT,
    TEXTS,
    URL,
    WEATHER,
    check,
    check_person,
    check_vectors,
    check_weather,
    feature,
    run,
)
from pydantic import BaseModel

ONE_CALL = {"parallel_tool_calls": False, "temperature": 0}  # small models like to go on
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


@feature("responses: history of items")
def responses_history() -> None:
    first = client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=8)
    items = [{"role": "user", "content": PROMPT}, *first.output,
             {"role": "user", "content": [{"type": "input_text", "text": "More"}]}]  # fmt: skip
    again = client.responses.create(
        model=MODEL, input=items, instructions="Be brief.", max_output_tokens=8
    )
    check(again.usage.input_tokens > first.usage.input_tokens, again.usage)


@feature("responses: stream equals plain")
def responses_equal() -> None:
    asked = {"model": MODEL, "input": "Hello!", "max_output_tokens": 16, "temperature": 0}
    plain = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    check(text == plain.output_text == events[-1].response.output_text, text)
    check([e.sequence_number for e in events] == list(range(len(events))), events)


@feature("responses: log-probs")
def responses_logprobs() -> None:
    answer = client.responses.create(
        model=MODEL, input="Hello!", max_output_tokens=4, top_logprobs=3,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    entries = answer.output[0].content[0].logprobs
    check(len(entries) == answer.usage.output_tokens, entries)
    check(len(entries[0].top_logprobs) == 3, entries)


@feature("responses: parse into a class")
def responses_parse() -> None:
    answer = client.responses.parse(
        model=MODEL, input="Who?", max_output_tokens=200, temperature=0, text_format=Person
    )
    check(isinstance(answer.output_parsed, Person), answer)


@feature("responses: tools")
def responses_tools() -> None:
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    asked = {"model": MODEL, "tools": [tool], "max_output_tokens": 100, **ONE_CALL}
    history = [{"role": "user", "content": "How is the weather in Rome?"}]
    answer = client.responses.create(input=history, tool_choice="required", **asked)
    call = answer.output[-1]
    check(call.type == "function_call", answer)
    check_weather(call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = client.responses.create(input=[*history, call, result], tool_choice="none", **asked)
    check(after.output_text, after)


@feature("responses: stream helper with tools")
def responses_stream_helper() -> None:
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    with client.responses.stream(
        model=MODEL, input="Weather?", tools=[tool], tool_choice="required", max_output_tokens=100,
        **ONE_CALL,
    ) as stream:  # fmt: skip
        answer = stream.get_final_response()
    check_weather(answer.output[-1].name, answer.output[-1].arguments)


@feature("responses: errors")
def responses_errors() -> None:
    for body, kind in (
        ({"model": "nobody"}, openai.NotFoundError),
        ({"model": MODEL, "previous_response_id": "resp_1"}, openai.BadRequestError),
    ):
        try:
            client.responses.create(input=PROMPT, **body)
        except kind as error:
            check(error.param, error)
            continue
        raise AssertionError(f"{body} was accepted")


@feature("embeddings", needs=ENCODER)
def embeddings() -> None:
    """The client asks for base64 by itself."""
    answer = client.embeddings.create(model=ENCODER, input=TEXTS)
    check_vectors([entry.embedding for entry in answer.data])
    check(answer.usage.prompt_tokens > 10, answer.usage)
    plain = client.embeddings.create(model=ENCODER, input=TEXTS, encoding_format="float")
    for entry, other in zip(plain.data, answer.data, strict=True):
        pairs = zip(entry.embedding, other.embedding, strict=True)
        check(max(abs(a - b) for a, b in pairs) < 1e-7, entry.embedding[:3])
    few = client.embeddings.create(model=ENCODER, input=TEXTS[0], dimensions=8)
    check(len(few.data[0].embedding) == 8, few)


run()
