"""LiteLLM, as a library."""

import litellm
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

GIVEN = {"api_base": f"{URL}/v1", "api_key": "none", "max_tokens": 100}
CHAT = {"model": f"openai/{MODEL}", "messages": MESSAGES, **GIVEN}


@feature("completions")
def completions() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt=PROMPT, temperature=0, **GIVEN
    )
    check("Paris" in answer.choices[0].text, answer)


@feature("chat")
def chat() -> None:
    answer = litellm.completion(**CHAT)
    check(answer.choices[0].message.content, answer)


@feature("chat streamed")
def streamed() -> None:
    parts = [
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**CHAT, stream=True)
    ]
    check("".join(parts), parts)


@feature("structured output")
def structured() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = litellm.completion(**CHAT, response_format=schema)
    check_person(answer.choices[0].message.content)


@feature("tools")
def tools() -> None:
    answer = litellm.completion(**CHAT, tools=[WEATHER], tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    check_weather(call.function.name, call.function.arguments)


@feature("anthropic messages")
def anthropic() -> None:
    answer = litellm.completion(
        model=f"anthropic/{MODEL}", messages=MESSAGES, api_base=URL, api_key="none", max_tokens=20
    )
    check(answer.choices[0].message.content, answer)


@feature("ollama")
def ollama() -> None:
    answer = litellm.completion(
        model=f"ollama_chat/{MODEL}", messages=MESSAGES, api_base=URL, max_tokens=20
    )
    check(answer.choices[0].message.content, answer)


@feature("errors")
def errors() -> None:
    try:
        litellm.completion(**{**CHAT, "messages": [{"role": "user", "content": "word " * 20000}]})
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("no ContextWindowExceededError")


@feature("embeddings", needs=ENCODER)
def embeddings() -> None:
    answer = litellm.embedding(
        model=f"openai/{ENCODER}", input=TEXTS, api_base=f"{URL}/v1", api_key="none"
    )
    check_vectors([entry["embedding"] for entry in answer.data])


run()
