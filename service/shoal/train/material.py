"""What a run is made from: the tokenizer, the embedding's warm start, the held-out check.

Between the corpora (text) and the loop (token ids). Decides no sizes and no schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from shoal.train.config import Recipe
from shoal.train.copying import wire_copying
from shoal.train.corpora import Corpus, Document
from shoal.train.embedding import cooccurrence_embedding
from shoal.train.heldout import bits_per_byte, exact_share
from shoal.train.network import Llama, TwinEmbedding
from shoal.train.packing import TokenizedDocument, tokenize_documents
from shoal.train.tokenizer import CONTROL_TOKENS, train_tokenizer, twins

WATCHED_DOCUMENTS = 300  # held-out documents of a source looked at while training


def tokenizer_for(recipe: Recipe, corpus: Corpus, run_dir: Path) -> Tokenizer:
    """The tokenizer of an earlier start of this run, or a new one trained on the corpus."""
    kept = run_dir / "tokenizer.json"
    if kept.is_file():
        return Tokenizer.from_file(str(kept))
    tokenizer = train_tokenizer(tokenizer_texts(corpus), recipe.tokenizer)
    run_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(kept))
    return tokenizer


def warm_start(network: Llama, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Fill the embedding from co-occurrence in all texts, then wire a circuit that copies.

    Blanks between words are skipped, and a token after a blank counts as its twin without.
    """
    texts = [*_texts_of(corpus.background), *_texts_of(corpus.train)]
    blanks = {tokenizer.token_to_id(token) for token in ("\u0120", "\u010a")}  # ` ` and newline
    pairs = twins(tokenizer)
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [
        np.array([pairs.get(token, token) for token in found.ids if token not in blanks], np.int32)
        for found in encoded
    ]
    vectors = cooccurrence_embedding(ids, network.vocab_size, network.shape.hidden_size)
    tokens = network.model.embed_tokens
    with torch.no_grad():
        if isinstance(tokens, TwinEmbedding):
            tokens.rows[tokens.row_of[tokens.spaced == 0]] = vectors[tokens.spaced == 0]
        else:
            tokens.weight.copy_(vectors)
    wire_copying(network, seed=2)


def held_out_check(
    corpus: Corpus, tokenizer: Tokenizer, context: int, most: int | None = WATCHED_DOCUMENTS
) -> Callable[[Llama], dict[str, float]]:
    """A function from network to figures: bits per byte of texts, exact share of answers.

    `most` limits the documents of a source, evenly spread; None: all of them.
    """
    watched: dict[str, tuple[list[TokenizedDocument], int]] = {}
    for name, documents in corpus.held_out.items():
        some = documents[:: max(1, len(documents) // most)] if most else documents
        rows = tokenize_documents(some, tokenizer, context)
        # an answer to a request is right or wrong; a text is measured by its bits
        answers = all(len(document.variants[0]) > 2 for document in some)
        watched[name] = (rows, 0 if answers else _learned_bytes(some))

    def check(network: Llama) -> dict[str, float]:
        figures = {}
        for name, (rows, num_bytes) in watched.items():
            if num_bytes:
                figures[f"bits_per_byte {name}"] = bits_per_byte(network, rows, num_bytes)
            else:
                figures[f"exact {name}"] = exact_share(network, rows)
        return figures

    return check


def tokenizer_texts(corpus: Corpus) -> Iterator[str]:
    """Texts for the tokenizer. Beside a background, what is trained on counts ten times; without
    one, of what is read seldom an even share counts."""
    if not corpus.background:
        often = [
            document
            for place, document in enumerate(corpus.train)
            if place * document.repeat % 1 < document.repeat
        ]
        yield from _texts_of(often)
        return
    for _ in range(10):
        yield from _texts_of(corpus.train)
    yield from _texts_of(corpus.background)


def _texts_of(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        for variant in {id(found): found for found in document.variants[::7]}.values():
            yield from (_without_control(piece.text) for piece in variant)


def _without_control(text: str) -> str:
    for token in CONTROL_TOKENS:
        text = text.replace(token, "")
    return text


def _learned_bytes(documents: list[Document]) -> int:
    return sum(
        len(_without_control(piece.text).encode())
        for document in documents
        for piece in document.variants[0]
        if piece.learned
    )
