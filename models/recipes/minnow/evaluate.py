"""minnow's figures: bits per byte beside a 5-gram model, and how well it tells what is asked for.

Bits per byte come from the log-probabilities of prompts. What asks the model is a plain function,
so that tests need no server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tokenizers import Tokenizer

from shoal.train.config import load_recipe
from shoal.train.corpora import read_corpus
from shoal.train.pieces import Document
from shoal.train.tokenizer import END_OF_TEXT

from ..common.evaluation import EvaluationOptions, connect, share
from .prose_checks import (
    RUN_WORDS,
    copied_share,
    mentioned_words,
    ngram_bits_per_byte,
    repeated_share,
    shuffle_sentences,
)
from .readers import READERS
from .samples import Generate, GeneratedStory, held_out_subjects, sample_stories

Score = Callable[[list[int]], float]
"""Token ids -> their log-probability in nats, but for the first."""

NAME = "minnow"
ASKED_STORIES = 300  # stories requested about the subjects of held-out stories
SHUFFLED_TEXTS = 300  # texts of a set that are also measured with shuffled sentences
ASKED_ABOUT = "tinystories-sample"  # the held-out set whose subjects are asked for


def evaluate_minnow(options: EvaluationOptions) -> dict[str, Any]:
    """Every figure in "Quality" of the card."""
    tokenizer = Tokenizer.from_file(str(options.models / NAME / "tokenizer.json"))
    recipe = load_recipe(options.models / "recipes" / NAME)
    corpus = read_corpus(recipe, options.data, READERS)
    training = plain_texts(corpus.train)
    held_out = {
        name: plain_texts(documents[: options.limit]) for name, documents in corpus.held_out.items()
    }
    figures = _bits_per_byte(options, tokenizer, training, held_out)
    generate = generate_on_server(options)
    subjects = held_out_subjects(held_out[ASKED_ABOUT], ASKED_STORIES)
    figures[f"{NAME} asked for stories about what {ASKED_ABOUT} is about"] = {
        **measure_following(subjects, generate, options.concurrency),
        "repeated_in_held_out": round(repeated_share(held_out[ASKED_ABOUT]), 4),
    }
    if options.samples:
        stories = sample_stories(generate)
        options.samples.write_text(json.dumps(stories, indent=1, ensure_ascii=False) + "\n")
        own = {"its own stories": [story["text"] for story in stories]}
        figures[f"{NAME} runs of {RUN_WORDS} words that occur in the training texts"] = {
            f"of {name}": round(copied_share(texts, training), 4)
            for name, texts in {**own, **held_out}.items()
        }
    return figures


def _bits_per_byte(
    options: EvaluationOptions,
    tokenizer: Tokenizer,
    training: list[str],
    held_out: dict[str, list[str]],
) -> dict[str, Any]:
    config = json.loads((options.models / NAME / "config.json").read_text())
    texts = dict(held_out)
    for name, all_texts in held_out.items():
        first = all_texts[:SHUFFLED_TEXTS]
        texts[f"{name}, its first {len(first)}"] = first
        texts[f"{name}, the same with shuffled sentences"] = [*map(shuffle_sentences, first)]
    baseline = ngram_bits_per_byte(training, texts, tokenizer)
    score = score_on_server(options)
    context = config["max_position_embeddings"]
    figures: dict[str, Any] = {}
    for name, measured in texts.items():
        bits = bits_per_byte(measured, tokenizer, score, context, options.concurrency)
        figures[f"{NAME} {name}"] = {
            "texts": len(measured),
            "bits_per_byte": round(bits, 4),
            "kneser_ney_5_bits_per_byte": round(baseline[name], 4),
        }
    return figures


def bits_per_byte(
    texts: list[str], tokenizer: Tokenizer, score: Score, context: int, concurrency: int = 8
) -> float:
    """Bits per byte of texts, each begun and ended by token 0; those longer than `context` are cut
    into parts that share one token."""
    parts: list[list[int]] = []
    for text in texts:
        ids = [0, *tokenizer.encode(text, add_special_tokens=False).ids, 0]
        step = context - 2  # room for the one token that a server may insist on generating
        parts += [ids[start : start + step + 1] for start in range(0, len(ids) - 1, step)]
    with ThreadPoolExecutor(concurrency) as pool:
        nats = -math.fsum(pool.map(score, parts))
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def measure_following(
    subjects: list[str], generate: Generate, concurrency: int = 8
) -> dict[str, float]:
    """Asks for a story about each subject. How much of its subject does a story mention, beside how
    much it mentions of another one's by chance? Does it end? How much does it repeat itself?"""

    def ask(index: int) -> GeneratedStory:
        return generate(f"Tell me a story about {subjects[index]}.", "", index)

    with ThreadPoolExecutor(concurrency) as pool:
        stories = list(pool.map(ask, range(len(subjects))))
    texts = [story.text for story in stories]
    own = [mentioned_words(subject, text) for subject, text in zip(subjects, texts, strict=True)]
    shifted = [*texts[-1:], *texts[:-1]]
    by_chance = [
        mentioned_words(subject, text) for subject, text in zip(subjects, shifted, strict=True)
    ]
    return {
        "requests": len(subjects),
        "whole_subject": round(share(mentioned == total for mentioned, total in own), 4),
        "words_of_subject": round(_word_share(own), 4),
        "words_of_another_subject": round(_word_share(by_chance), 4),
        "ended": round(share(story.ended for story in stories), 4),
        "repeated_runs_of_4_words": round(repeated_share(texts), 4),
    }


def plain_texts(documents: Iterable[Document]) -> list[str]:
    """The texts of documents, without control tokens."""
    return [
        "".join(segment.text for segment in document.variants[0] if segment.in_loss).removesuffix(
            END_OF_TEXT
        )
        for document in documents
    ]


def score_on_server(options: EvaluationOptions) -> Score:
    """Log-probabilities of prompts under the served model."""
    client = connect(options)

    def score(token_ids: list[int]) -> float:
        body = {
            "model": NAME,
            "prompt": [token_ids],
            "max_tokens": 0,
            "echo": True,
            "logprobs": 0,
            "temperature": 0,
        }
        reply = client.post("/v1/completions", json=body)
        reply.raise_for_status()
        logprobs = reply.json()["choices"][0]["logprobs"]["token_logprobs"]
        return math.fsum(logprobs[1 : len(token_ids)])

    return score


def generate_on_server(options: EvaluationOptions) -> Generate:
    """Stories with the model's own sampling defaults, repeatable by seed."""
    client = connect(options)

    def generate(request: str | None, beginning: str, seed: int) -> GeneratedStory:
        body: dict[str, Any] = {"model": NAME, "max_tokens": 400, "seed": seed}
        if request is None:
            reply = client.post("/v1/completions", json={**body, "prompt": beginning})
            choice = reply.raise_for_status().json()["choices"][0]
            text = beginning + str(choice["text"])
        else:
            body["messages"] = [{"role": "user", "content": request}]
            reply = client.post("/v1/chat/completions", json=body)
            choice = reply.raise_for_status().json()["choices"][0]
            text = str(choice["message"]["content"])
        return GeneratedStory(text, choice["finish_reason"] == "stop")

    return generate


def _word_share(counts: list[tuple[int, int]]) -> float:
    return sum(mentioned for mentioned, _ in counts) / max(1, sum(total for _, total in counts))
