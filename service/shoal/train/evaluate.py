"""The figures of the model cards, measured on held-out splits through a running server.

Commands: intents and frames of the answers, read as JSON. Prose: bits per byte from the
log-probabilities of a prompt. What asks is a plain function, so tests and notebooks need no server.
Run: `python -m shoal.train.evaluate --url http://127.0.0.1:8000 --data ../shared/data/corpora`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from tokenizers import Tokenizer

from shoal.train.config import load_recipe
from shoal.train.corpora import Document, read_corpus
from shoal.train.prose_checks import (
    RUN_WORDS,
    copied_share,
    ngram_bits_per_byte,
    repeated_share,
    said_words,
    shuffle_sentences,
)
from shoal.train.samples import TellStory, Told, held_out_subjects, write_stories

Messages = list[dict[str, str]]
Ask = Callable[[Messages], str]  # a conversation -> the answer's text
Score = Callable[[list[int]], float]  # token ids -> log-probability in nats of all but the first

ASKED_STORIES = 300  # stories asked for by what held-out stories are about
SHUFFLED_TEXTS = 300  # texts of a set that are also measured with shuffled sentences


class Case(NamedTuple):
    """One held-out request and the answer it should get."""

    messages: Messages
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Marks:
    """Shares of a set of cases, 0 to 1."""

    num_cases: int
    valid_json: float
    intent: float  # right intent
    frame: float  # right intent and exactly the right slots


def held_out_cases(recipe_path: Path, data_dir: Path) -> dict[str, list[Case]]:
    """The held-out requests of a command recipe by set, e.g. `snips`, `clinc`, `clinc oos`."""
    recipe = load_recipe(recipe_path)
    unneeded = {"made_up", "titles_from", "titles"}  # for training only, and slow
    sources = tuple(
        replace(source, options={k: v for k, v in source.options.items() if k not in unneeded})
        for source in recipe.sources
        if source.hold_out or source.hold_out_share
    )
    # the server's template reads twice
    corpus = read_corpus(replace(recipe, sources=sources, read_twice=False), data_dir)
    return {
        name: [_case(document) for document in documents]
        for name, documents in corpus.held_out.items()
    }


def mark_commands(cases: list[Case], ask: Ask, concurrency: int = 8) -> Marks:
    """Ask every case and count. An answer that is no JSON object is wrong in every way."""
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(ask, [case.messages for case in cases]))
    read = [read_answer(answer) for answer in answers]
    intents = [
        found is not None and found.get("intent") == case.answer["intent"]
        for found, case in zip(read, cases, strict=True)
    ]
    frames = [found == case.answer for found, case in zip(read, cases, strict=True)]
    return Marks(
        num_cases=len(cases),
        valid_json=_share(found is not None for found in read),
        intent=_share(intents),
        frame=_share(frames),
    )


def read_answer(text: str) -> dict[str, Any] | None:
    """The JSON object of an answer, or None where it is not exactly one."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def measure_prose(
    texts: list[str], tokenizer: Tokenizer, score: Score, context: int, concurrency: int = 8
) -> float:
    """Bits per byte of texts, each begun and ended by token 0; long ones in pieces that share
    one token."""
    pieces: list[list[int]] = []
    for text in texts:
        ids = [0, *tokenizer.encode(text, add_special_tokens=False).ids, 0]
        step = context - 2  # room for the one token a server may insist on writing
        pieces += [ids[start : start + step + 1] for start in range(0, len(ids) - 1, step)]
    with ThreadPoolExecutor(concurrency) as pool:
        nats = -math.fsum(pool.map(score, pieces))
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def ask_server(url: str, model: str, api_key: str | None = None) -> Ask:
    """Greedy answers from a server that speaks the OpenAI protocol."""
    client = _client(url, api_key)

    def ask(messages: Messages) -> str:
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 128}
        reply = client.post("/v1/chat/completions", json=body)
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    return ask


def score_server(url: str, model: str, api_key: str | None = None) -> Score:
    """Log-probabilities of prompts from a server that speaks the OpenAI protocol."""
    client = _client(url, api_key)

    def score(token_ids: list[int]) -> float:
        body = {
            "model": model,
            "prompt": [token_ids],
            "max_tokens": 0,
            "echo": True,
            "logprobs": 0,
            "temperature": 0,
        }
        reply = client.post("/v1/completions", json=body)
        reply.raise_for_status()
        found = reply.json()["choices"][0]["logprobs"]["token_logprobs"]
        return math.fsum(found[1 : len(token_ids)])

    return score


def ask_story(url: str, model: str, api_key: str | None = None) -> TellStory:
    """Stories with the folder's own sampling settings, repeatable by seed."""
    client = _client(url, api_key)

    def tell(request: str | None, beginning: str, seed: int) -> Told:
        body: dict[str, Any] = {"model": model, "max_tokens": 400, "seed": seed}
        if request is None:
            reply = client.post("/v1/completions", json={**body, "prompt": beginning})
            choice = reply.raise_for_status().json()["choices"][0]
            return Told(beginning + str(choice["text"]), choice["finish_reason"] == "stop")
        body["messages"] = [{"role": "user", "content": request}]
        reply = client.post("/v1/chat/completions", json=body)
        choice = reply.raise_for_status().json()["choices"][0]
        return Told(str(choice["message"]["content"]), choice["finish_reason"] == "stop")

    return tell


def measure_following(
    subjects: list[str], tell: TellStory, concurrency: int = 8
) -> dict[str, float]:
    """Stories told about subjects: how much of a subject they say, beside how much the story for
    the subject before it says by chance; whether they end; how much they repeat themselves."""

    def ask(place: int) -> Told:
        return tell(f"Tell me a story about {subjects[place]}.", "", place)

    with ThreadPoolExecutor(concurrency) as pool:
        told = list(pool.map(ask, range(len(subjects))))
    texts = [story.text for story in told]
    found = [said_words(subject, text) for subject, text in zip(subjects, texts, strict=True)]
    others = [*texts[-1:], *texts[:-1]]
    chance = [said_words(subject, text) for subject, text in zip(subjects, others, strict=True)]
    return {
        "requests": len(subjects),
        "whole_subject": round(_share(said == count for said, count in found), 4),
        "words_of_subject": round(_ratio(found), 4),
        "words_of_another_subject": round(_ratio(chance), 4),
        "ended": round(_share(story.ended for story in told), 4),
        "repeated_runs_of_4_words": round(repeated_share(texts), 4),
    }


def plain_texts(documents: Iterable[Document]) -> list[str]:
    """The texts of held-out documents, without control tokens."""
    return [
        "".join(piece.text for piece in document.variants[0] if piece.learned).removesuffix(
            "<|endoftext|>"
        )
        for document in documents
    ]


def _client(url: str, api_key: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=120.0)


def _case(document: Document) -> Case:
    messages: Messages = []
    for piece in document.variants[0]:
        for role in ("system", "user"):
            mark = f"<|{role}|>"
            if piece.text.startswith(mark):
                content = piece.text.removeprefix(mark).removesuffix("<|end|>")
                messages.append({"role": role, "content": content})
    answer = document.variants[0][-1].text.removesuffix("<|end|>")
    return Case(messages, json.loads(answer))


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / max(1, len(values))


def _ratio(found: list[tuple[int, int]]) -> float:
    return sum(said for said, _ in found) / max(1, sum(count for _, count in found))


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of those default models that the server has."""
    with _client(options.url, options.api_key) as client:
        reply = client.get("/v1/models").raise_for_status()
    served = {model["id"] for model in reply.json()["data"]}
    report: dict[str, Any] = {}
    if options.commands_model in served:
        report |= _evaluate_commands(options)
    if options.prose_model in served:
        report |= _evaluate_prose(options)
    return report


def _evaluate_commands(options: argparse.Namespace) -> dict[str, Any]:
    name = options.commands_model
    recipe = options.models / "recipes" / name / "recipe.toml"
    ask = ask_server(options.url, name, options.api_key)
    report: dict[str, Any] = {}
    for split, cases in held_out_cases(recipe, options.data).items():
        marks = mark_commands(cases[: options.limit], ask, options.concurrency)
        report[f"{name} {split}"] = {
            "cases": marks.num_cases,
            "intent": round(marks.intent, 4),
            "frame": round(marks.frame, 4),
            "valid_json": round(marks.valid_json, 4),
        }
    return report


def _evaluate_prose(options: argparse.Namespace) -> dict[str, Any]:
    name = options.prose_model
    folder = options.models / name
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    context = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    score = score_server(options.url, name, options.api_key)
    recipe = load_recipe(options.models / "recipes" / name / "recipe.toml")
    corpus = read_corpus(recipe, options.data)
    held_out = {
        source: plain_texts(documents[: options.limit])
        for source, documents in corpus.held_out.items()
    }
    texts = dict(held_out)
    for source, found in held_out.items():
        some = found[:SHUFFLED_TEXTS]
        texts[f"{source}, its first {len(some)}"] = some
        texts[f"{source}, the same with shuffled sentences"] = [*map(shuffle_sentences, some)]
    training = plain_texts(corpus.train)
    baseline = ngram_bits_per_byte(training, texts, tokenizer)
    report: dict[str, Any] = {}
    for source, found in texts.items():
        bits = measure_prose(found, tokenizer, score, context, options.concurrency)
        report[f"{name} {source}"] = {
            "texts": len(found),
            "bits_per_byte": round(bits, 4),
            "kneser_ney_5_bits_per_byte": round(baseline[source], 4),
        }
    tell = ask_story(options.url, name, options.api_key)
    for source, found in held_out.items():
        if source.startswith(options.stories):
            subjects = held_out_subjects(found, ASKED_STORIES)
            report[f"{name} asked for stories about what {source} is about"] = {
                **measure_following(subjects, tell, options.concurrency),
                "repeated_in_held_out": round(repeated_share(found), 4),
            }
    if options.samples:
        stories = write_stories(tell)
        options.samples.write_text(json.dumps(stories, indent=1, ensure_ascii=False) + "\n")
        report[f"{name} runs of {RUN_WORDS} words that stand in the training texts"] = {
            "of its own stories": round(copied_share([s["text"] for s in stories], training), 4),
            **{
                f"of {source}": round(copied_share(found, training), 4)
                for source, found in held_out.items()
            },
        }
    return report


def main() -> None:
    """Print every figure of the cards as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--prose-model", default="minnow")
    parser.add_argument("--stories", default="tinystories", help="held-out set to ask after")
    parser.add_argument("--commands-model", default="pilotfish")
    parser.add_argument("--api-key", default=None)
    parser.add_argument("--limit", type=int, default=None, help="cases of each set; all if absent")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--samples", type=Path, help="write 20 stories to this JSON file, uncut")
    print(json.dumps(_evaluate(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
