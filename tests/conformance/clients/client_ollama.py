"""ollama-python against the /api routes."""

import ollama
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


@feature("chat: stream equals plain")
def equal() -> None:
    plain = client.chat(MODEL, MESSAGES, options=SHORT)
    parts = list(client.chat(MODEL, MESSAGES, options=SHORT, stream=True))
    check("".join(part.message.content for part in parts) == plain.message.content, parts)
    check(parts[-1].done_reason == plain.done_reason, parts[-1])
    check(plain.total_duration > 0, plain)


@feature("log-probs")
def logprobs() -> None:
    answer = client.chat(MODEL, MESSAGES, options=SHORT, logprobs=True, top_logprobs=2)
    check(len(answer.logprobs) == answer.eval_count, answer)
    check(len(answer.logprobs[0].top_logprobs) == 2, answer)


@feature("load, ps, pull")
def loaded() -> None:
    check(client.generate(MODEL).done_reason == "load", MODEL)
    check(client.ps().models[0].expires_at is not None, MODEL)
    check(client.pull(MODEL).status == "success", MODEL)


@feature("tool results")
def tool_results() -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
    ]
    check(client.chat(MODEL, history, tools=[WEATHER], options=SHORT).done, history)


@feature("embeddings", needs=ENCODER)
def embeddings() -> None:
    check_vectors(client.embed(ENCODER, TEXTS).embeddings)
    check(len(client.embeddings(ENCODER, TEXTS[0]).embedding) > 8, ENCODER)
    check(client.show(ENCODER).capabilities == ["embedding"], ENCODER)


run()
