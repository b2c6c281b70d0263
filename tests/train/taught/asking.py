"""Questions to a served model."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import httpx

from models.recipes.pilotfish.evaluate import Ask, Messages
from tests.benchmarks.serving import serving

CONCURRENCY = 8
TIMEOUT_S = 600.0
EXTRACTION_MAX_TOKENS = 128


class Answer(NamedTuple):
    """`stopped`: the model ended it, not the limit of tokens."""

    text: str
    stopped: bool


@contextmanager
def served(flags: Sequence[str]) -> Iterator[httpx.Client]:
    """A client of `shoal serve` with these flags."""
    with (
        serving([], *flags) as (_, port),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S, trust_env=False
        ) as client,
    ):
        yield client


def ask(client: httpx.Client, model: str, messages: Messages, max_tokens: int) -> Answer:
    """Decoded greedily."""
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    (choice,) = reply["choices"]
    return Answer(choice["message"]["content"], choice["finish_reason"] == "stop")


def ask_questions(
    client: httpx.Client, model: str, questions: Sequence[str], max_tokens: int
) -> list[Answer]:
    """Each as a chat of its own, several at a time."""

    def one(question: str) -> Answer:
        return ask(client, model, [{"role": "user", "content": question}], max_tokens)

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(one, questions))


def extractor(client: httpx.Client, model: str) -> Ask:
    """For pilotfish's `score_answers`."""
    return lambda messages: ask(client, model, messages, EXTRACTION_MAX_TOKENS).text
