"""pydantic-ai agents."""

from harness import MODEL, URL, check, feature, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
SETTINGS = ModelSettings(max_tokens=200, temperature=0)


class Person(BaseModel):
    name: str
    age: int


@feature("chat")
def chat() -> None:
    answer = Agent(model, model_settings=SETTINGS).run_sync("Say hello.")
    check(answer.output, answer)


@feature("chat streamed")
async def streamed() -> None:
    async with Agent(model, model_settings=SETTINGS).run_stream("Say hello.") as answer:
        text = [piece async for piece in answer.stream_text()]
    check(text, text)


@feature("structured output")
def structured() -> None:
    agent = Agent(model, output_type=NativeOutput(Person), model_settings=SETTINGS)
    check(isinstance(agent.run_sync("Bob is 30 years old.").output, Person), "no person")


@feature("tools")
def tools() -> None:
    """An output type is a tool that must be called."""
    agent = Agent(model, output_type=Person, model_settings=SETTINGS, retries=3)
    check(isinstance(agent.run_sync("Bob is 30 years old.").output, Person), "no person")


run()
