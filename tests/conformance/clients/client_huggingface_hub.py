"""huggingface_hub's InferenceClient: chat, and text generation in TGI's shape."""

from harness import MESSAGES, MODEL, PROMPT, URL, WEATHER, check, check_weather, feature, run
from huggingface_hub import InferenceClient

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


run()
