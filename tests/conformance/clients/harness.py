"""What every client's script uses: features by name, run one by one, a JSON line for each.

Runs in the client's own environment, so it imports nothing but the standard library.
"""

import asyncio
import inspect
import json
import math
import os
import traceback
from collections.abc import Callable
from typing import Any

URL = os.environ.get("SHOAL_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("SHOAL_MODEL", "smollm2")
ENCODER = os.environ.get("SHOAL_ENCODER", "")
"""The model that makes embeddings; empty = none is served."""
TEXTS = ["The cat sleeps on the sofa.", "A kitten is having a nap.", "Shares fell sharply today."]
"""The first two say nearly the same."""
PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "Say hello to the world in one short sentence."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "mood": {"enum": ["happy", "sad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "London", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_features: dict[str, Callable[[], Any]] = {}


def feature(name: str, *, needs: str = MODEL) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a function that raises unless the feature works. `needs`: a model; without it the
    feature is left out."""

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        if needs:
            _features[name] = function
        return function

    return register


def check(condition: object, saw: object) -> None:
    if not condition:
        raise AssertionError(f"saw {saw!r}"[:500])


def check_person(text: str) -> None:
    """Does the text follow the schema PERSON?"""
    person = json.loads(text)
    check(set(person) == {"name", "age", "mood"}, person)
    check(isinstance(person["age"], int) and person["mood"] in ("happy", "sad"), person)


def check_weather(name: str | None, arguments: str | dict[str, Any] | None) -> None:
    """Is it a call of WEATHER?"""
    check(name == "get_weather", name)
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    check(given is not None and given["city"] in ("Paris", "London", "Rome"), given)


def check_vectors(vectors: list[list[float]]) -> None:
    """Do they tell what TEXTS have in common?"""
    check(len(vectors) == len(TEXTS), len(vectors))
    first, near, far = vectors
    check(_cosine(first, near) > _cosine(first, far) + 0.2, [vector[:3] for vector in vectors])


def _cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (math.hypot(*a) * math.hypot(*b))


def run() -> None:
    """Runs all features of the script; prints {"feature", "ok", "detail"} for each."""
    for name, function in _features.items():
        detail = ""
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(_wait(result))
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"[:400]
            traceback.print_exc()
        print(json.dumps({"feature": name, "ok": not detail, "detail": detail}), flush=True)


async def _wait(awaitable: Any) -> None:
    await asyncio.wait_for(awaitable, 120)
