"""What training data is before it becomes token ids: segments of text, documents, a corpus.

A document is a list of variants, different ways to write the same thing (a story on its own, or as
the answer to a request); each epoch reads one of them. A variant is a list of segments, some of
which the model learns to write. Reading files into documents is `corpora.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shoal.train.config import Source
from shoal.train.tokenizer import ASSISTANT, END, END_OF_TEXT, USER

Record = dict[str, Any]  # one JSON object of a source file


class Segment(NamedTuple):
    """A run of text, control tokens written out."""

    text: str
    in_loss: bool
    """Does the model learn to write it? Prompts are read only."""


Variant = list[Segment]


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its variants, and how many times an epoch reads it."""

    variants: list[Variant]
    repeat: float


class Corpus(NamedTuple):
    """Everything a recipe's sources hold."""

    train: list[Document]
    held_out: dict[str, list[Document]]
    """By the source's name; of each document only the first variant."""
    background: list[Document]
    """Read for the tokenizer and a recipe's initial weights, never trained on."""


@dataclass(frozen=True, slots=True)
class ReadContext:
    """What a reader may need besides the records of its own source."""

    data_dir: Path
    sources: tuple[Source, ...]
    """All sources of the recipe."""
    base: Path | None = None
    """The model folder that is trained further."""
    held_out: bool = False
    """Are these records held out? Then only the first variant is used."""


Reader = Callable[[Iterable[Record], Source, ReadContext], Iterator[list[Variant]]]
"""Records of one source -> the variants of each document."""


def plain(text: str) -> Variant:
    """A text on its own, ended by the end-of-text token."""
    return [Segment(END_OF_TEXT, False), Segment(text + END_OF_TEXT, True)]


def chat(messages: list[dict[str, str]]) -> Variant:
    """A conversation as the chat template renders it; what the assistant says is in the loss."""
    segments = [Segment(END_OF_TEXT, False)]
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            segments += [Segment(ASSISTANT, False), Segment(content + END, True)]
        else:
            segments.append(Segment(f"<|{role}|>{content}{END}", False))
    return segments


def request_and_answer(request: str, answer: str, system: str = "") -> Variant:
    """One user turn and one answer, with a system text where given."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return chat(messages)


def read_twice(variant: Variant) -> Variant:
    """The same with every user turn written twice, as `chat_template(read_twice=True)` does.

    A causal network sees only what came before; on the second reading each word has seen the whole
    request (Springer et al. 2024, "Repetition improves language model embeddings").
    """
    return [
        copy
        for segment in variant
        for copy in [segment] * (2 if segment.text.startswith(USER) and not segment.in_loss else 1)
    ]
