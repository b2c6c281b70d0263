"""instructor: answers as pydantic objects."""

import instructor
import openai
from harness import MODEL, URL, check, feature, run
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=130)


def ask(mode: instructor.Mode) -> None:
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), mode=mode
    )
    person = client.chat.completions.create(
        model=MODEL, response_model=Person, max_retries=1, max_tokens=200, temperature=0,
        messages=[{"role": "user", "content": "Extract: Bob is 30 years old."}],
    )  # fmt: skip
    check(isinstance(person, Person), person)


@feature("tools")
def tools() -> None:
    ask(instructor.Mode.TOOLS)


@feature("structured output")
def structured() -> None:
    ask(instructor.Mode.JSON_SCHEMA)


run()
