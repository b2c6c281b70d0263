"""pilotfish's figures: intents and whole frames of its answers, read as JSON.

What asks the model is a plain function, so that tests need no server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from shoal.train.config import load_recipe
from shoal.train.corpora import read_held_out, read_records
from shoal.train.pieces import Document

from ..common.evaluation import EvaluationOptions, connect, share
from .frames import frame_schema, frames_of
from .readers import READERS

Messages = list[dict[str, str]]
Ask = Callable[[Messages], str]  # a conversation -> the answer's text

NAME = "pilotfish"
SNIPS_FILE = "snips-slots.jsonl.xz"


class Case(NamedTuple):
    """One held-out request and the answer it should get."""

    messages: Messages
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of a set of cases, 0 to 1."""

    num_cases: int
    valid_json: float
    intent: float
    """The intent is right."""
    frame: float
    """Intent and all slots are right, and there are no others."""


def evaluate_pilotfish(options: EvaluationOptions) -> dict[str, Any]:
    """The table "Quality" of the card, by held-out set."""
    ask = ask_server(options)
    figures: dict[str, Any] = {}
    for name, cases in held_out_cases(options.models / "recipes" / NAME, options.data).items():
        cases = cases[: options.limit]
        figures[f"{NAME} {name}"] = _figures(score_answers(cases, ask, options.concurrency))
        if name == "snips" and options.schema:
            with_schema = ask_server(options, snips_schema(options.data))
            scores = score_answers(cases, with_schema, options.concurrency)
            figures[f"{NAME} {name}, with a schema"] = _figures(scores)
    return figures


def snips_schema(data_dir: Path) -> dict[str, Any]:
    """Of the frames in the training split."""
    records = read_records(data_dir / SNIPS_FILE)
    return frame_schema(frames_of(record for record in records if record["split"] == "train"))


def _figures(scores: Scores) -> dict[str, Any]:
    return {
        "cases": scores.num_cases,
        "intent": round(scores.intent, 4),
        "frame": round(scores.frame, 4),
        "valid_json": round(scores.valid_json, 4),
    }


def held_out_cases(recipe: Path, data_dir: Path) -> dict[str, list[Case]]:
    """The held-out requests by set: `snips`, `clinc`, `clinc oos`, `banking`, `dialogue`."""
    # each request once: the server's chat template repeats it
    once = replace(load_recipe(recipe), read_twice=False)
    held_out = read_held_out(once, data_dir, READERS)
    return {name: [*map(_case, documents)] for name, documents in held_out.items()}


def score_answers(cases: list[Case], ask: Ask, concurrency: int = 8) -> Scores:
    """Ask every case and count. An answer that is no JSON object is wrong in every way."""
    with ThreadPoolExecutor(concurrency) as pool:
        texts = list(pool.map(ask, [case.messages for case in cases]))
    answers = [parse_answer(text) for text in texts]
    pairs = list(zip(answers, cases, strict=True))
    return Scores(
        num_cases=len(cases),
        valid_json=share(answer is not None for answer in answers),
        intent=share(
            answer is not None and answer.get("intent") == case.answer["intent"]
            for answer, case in pairs
        ),
        frame=share(answer == case.answer for answer, case in pairs),
    )


def parse_answer(text: str) -> dict[str, Any] | None:
    """The JSON object of an answer, or None where it is not exactly one."""
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None


def ask_server(options: EvaluationOptions, schema: dict[str, Any] | None = None) -> Ask:
    """Greedy answers of the served model, which keep to the schema if there is one."""
    client = connect(options)
    structured = {} if schema is None else {"structured_outputs": {"json": schema}}

    def ask(messages: Messages) -> str:
        body = {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": 128}
        body |= structured
        reply = client.post("/v1/chat/completions", json=body)
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    return ask


def _case(document: Document) -> Case:
    """The conversation back from its segments."""
    messages: Messages = []
    for segment in document.variants[0]:
        for role in ("system", "user"):
            start = f"<|{role}|>"
            if segment.text.startswith(start):
                content = segment.text.removeprefix(start).removesuffix("<|end|>")
                messages.append({"role": role, "content": content})
    answer = document.variants[0][-1].text.removesuffix("<|end|>")
    return Case(messages, json.loads(answer))
