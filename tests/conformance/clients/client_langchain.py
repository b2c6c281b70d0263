"""LangChain's ChatOpenAI, OpenAI and OpenAIEmbeddings."""

from harness import (
    ENCODER,
    MODEL,
    PROMPT,
    TEXTS,
    URL,
    WEATHER,
    check,
    check_vectors,
    check_weather,
    feature,
    run,
)
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

chat_model = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model=MODEL, max_tokens=100)


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=130)


@feature("completions")
def completions() -> None:
    model = OpenAI(base_url=f"{URL}/v1", api_key="none", model=MODEL, max_tokens=8, temperature=0)
    text = model.invoke(PROMPT)
    check("Paris" in text, text)


@feature("chat")
def chat() -> None:
    answer = chat_model.invoke("Say hello.")
    check(answer.content and answer.usage_metadata["output_tokens"] > 0, answer)


@feature("chat streamed")
def streamed() -> None:
    text = "".join(str(chunk.content) for chunk in chat_model.stream("Say hello."))
    check(text, text)


@feature("structured output")
def structured() -> None:
    for method in ("json_schema", "function_calling"):
        person = chat_model.with_structured_output(Person, method=method).invoke("Bob is 30.")
        check(isinstance(person, Person), (method, person))


@feature("tools")
def tools() -> None:
    answer = chat_model.bind_tools([WEATHER], tool_choice="required").invoke("Weather in Paris?")
    check_weather(answer.tool_calls[0]["name"], answer.tool_calls[0]["args"])


@feature("embeddings", needs=ENCODER)
def embeddings() -> None:
    """Without the check the client sends texts, not token ids of OpenAI's own tokenizer."""
    model = OpenAIEmbeddings(
        base_url=f"{URL}/v1", api_key="none", model=ENCODER, check_embedding_ctx_length=False
    )
    check_vectors(model.embed_documents(TEXTS))
    check(len(model.embed_query(TEXTS[0])) > 8, ENCODER)


run()
