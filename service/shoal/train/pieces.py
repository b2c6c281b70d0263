"""What a document is made of before it becomes token ids: pieces of text and who wrote them."""

from __future__ import annotations

from typing import NamedTuple

from shoal.train.tokenizer import ASSISTANT, END, END_OF_TEXT, USER


class Piece(NamedTuple):
    """A run of text (control tokens written out), and whether the model must learn to write it."""

    text: str
    learned: bool


Variant = list[Piece]


def plain(text: str) -> Variant:
    """A text on its own, ended by the end-of-text token."""
    return [Piece(END_OF_TEXT, False), Piece(text + END_OF_TEXT, True)]


def chat(messages: list[dict[str, str]]) -> Variant:
    """A conversation as the chat template renders it; what the assistant says is learned."""
    pieces = [Piece(END_OF_TEXT, False)]
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            pieces += [Piece(ASSISTANT, False), Piece(content + END, True)]
        else:
            pieces.append(Piece(f"<|{role}|>{content}{END}", False))
    return pieces


def read_twice(variant: Variant) -> Variant:
    """The same with every user turn written twice, as `chat_template(read_twice=True)` does.

    A causal network sees only what came before; in the second reading each word has seen the whole
    request (Springer et al. 2024, "Repetition improves language model embeddings").
    """
    return [
        again
        for piece in variant
        for again in [piece] * (2 if piece.text.startswith(USER) and not piece.learned else 1)
    ]


def request_and_answer(request: str, answer: str, system: str = "") -> Variant:
    """One user turn and one answer, with a system text where given."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return chat(messages)
