"""ollama-python against the /api routes."""

import ollama
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

client = ollama.Client(host=URL)
SHORT = {"num_predict": 20, "temperature": 0}


@feature("models")
def models() -> None:
    names = [model.model for model in client.list().models]
    check(any(name.startswith(MODEL) for name in names), names)
    check(client.show(MODEL).details is not None, names)


@feature("completions")
def generate() -> None:
    answer = client.generate(MODEL, PROMPT, raw=True, options=SHORT)
    check("Paris" in answer.response and answer.eval_count >= 1, answer)


@feature("completions streamed")
def generate_streamed() -> None:
    parts = list(client.generate(MODEL, PROMPT, raw=True, options=SHORT, stream=True))
    check(parts[-1].done and "Paris" in "".join(part.response for part in parts), parts[-1])


@feature("chat")
def chat() -> None:
    answer = client.chat(MODEL, MESSAGES, options=SHORT)
    check(answer.message.content and answer.done, answer)


@feature("chat streamed")
def streamed() -> None:
    parts = list(client.chat(MODEL, MESSAGES, options=SHORT, stream=True))
    check("".join(part.message.content or "" for part in parts), parts)


@feature("structured output")
def structured() -> None:
    answer = client.chat(MODEL, MESSAGES, format=PERSON, options={"num_predict": 100})
    check_person(answer.message.content)


@feature("tools")
def tools() -> None:
    """Ollama has no tool_choice: a small model may answer in words."""
    answer = client.chat(MODEL, MESSAGES, tools=[WEATHER], options={"num_predict": 60})
    for call in answer.message.tool_calls or ():
        check_weather(call.function.name, dict(call.function.arguments))


@feature("errors")
def errors() -> None:
    try:
        client.chat("nobody", MESSAGES)
    except ollama.ResponseError as error:
        check(error.status_code == 404, error)
        return
    raise AssertionError("no ResponseError")


run()
