"""huggingface_hub's InferenceClient: chat, and text generation in TGI's shape."""

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
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

client = InferenceClient(base_url=f"{URL}/v1", api_key="none")
tgi = InferenceClient(URL)


@feature("chat")
def chat() -> None:
    answer = client.chat_completion(MESSAGES, model=MODEL, max_tokens=20)
    check(answer.choices[0].message.content, answer)


@feature("chat streamed")
def streamed() -> None:
    chunks = list(client.chat_completion(MESSAGES, model=MODEL, max_tokens=20, stream=True))
    check(
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks
    )


@feature("tools")
def tools() -> None:
    answer = client.chat_completion(
        MESSAGES, model=MODEL, max_tokens=100, tools=[WEATHER], tool_choice="required"
    )
    call = answer.choices[0].message.tool_calls[0]
    check_weather(call.function.name, call.function.arguments)


@feature("text generation")
def generate() -> None:
    answer = tgi.text_generation(PROMPT, max_new_tokens=8, details=True, return_full_text=False)
    check(answer.generated_text and answer.details.generated_tokens >= 1, answer)


@feature("text generation streamed")
def generate_streamed() -> None:
    parts = list(tgi.text_generation(PROMPT, max_new_tokens=8, stream=True, details=True))
    check(parts[-1].details is not None and parts[-1].generated_text, parts[-1])


@feature("text generation: stream equals plain")
def equal() -> None:
    plain = tgi.text_generation(PROMPT, max_new_tokens=12)
    check("".join(tgi.text_generation(PROMPT, max_new_tokens=12, stream=True)) == plain, plain)
    full = tgi.text_generation(PROMPT, max_new_tokens=12, return_full_text=True)
    check(full == PROMPT + plain, full)


@feature("text generation: details of the prompt, best_of")
def details() -> None:
    asked = {"max_new_tokens": 8, "details": True, "decoder_input_details": True}
    answer = tgi.text_generation(PROMPT, **asked, do_sample=True, seed=4, best_of=2)
    check(answer.details.prefill[0].logprob is None, answer)
    check(len(answer.details.best_of_sequences) == 1, answer)
    check(answer.details.generated_tokens == len(answer.details.tokens), answer)


@feature("text generation: grammar")
def grammar() -> None:
    text = tgi.text_generation(
        PROMPT, max_new_tokens=100, grammar={"type": "json", "value": PERSON}
    )
    check_person(text)
    year = tgi.text_generation(PROMPT, grammar={"type": "regex", "value": "[0-9]{4}"})
    check(len(year) == 4 and year.isdecimal(), year)


@feature("text generation: errors")
def errors() -> None:
    for asked in ({"max_new_tokens": 10**6}, {"watermark": True}):
        try:
            tgi.text_generation(PROMPT, **asked)
        except ValidationError:
            continue
        raise AssertionError(f"{asked} was accepted")


run()
