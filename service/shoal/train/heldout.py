"""Held-out figures of a run: bits per byte, comparable across tokenizers, and exact answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from tokenizers import Tokenizer

from shoal.train.corpora import without_control_tokens
from shoal.train.network import Llama
from shoal.train.packing import Row, TokenizedDocument, pad, tokenize_documents
from shoal.train.pieces import Corpus, Document

WATCHED_DOCUMENTS = 300  # of each source, measured while training


def held_out_check(
    corpus: Corpus, tokenizer: Tokenizer, context: int, most: int | None = WATCHED_DOCUMENTS
) -> Callable[[Llama], dict[str, float]]:
    """A function from network to figures by source: "bits_per_byte NAME" where the documents are
    plain texts, "exact NAME" where they are requests and answers.

    `most` limits the documents of a source, evenly spread; None: all of them.
    """
    measures: dict[str, Callable[[Llama], float]] = {}
    for name, documents in corpus.held_out.items():
        chosen = documents[:: max(1, len(documents) // most)] if most else documents
        rows = tokenize_documents(chosen, tokenizer, context)
        if all(_is_chat(document) for document in chosen):
            measures[f"exact {name}"] = partial(exact_share, documents=rows)
        else:
            size = _num_bytes(chosen)
            measures[f"bits_per_byte {name}"] = partial(
                bits_per_byte, documents=rows, num_bytes=size
            )
    return lambda network: {name: measure(network) for name, measure in measures.items()}


@torch.no_grad()
def bits_per_byte(
    network: Llama, documents: list[TokenizedDocument], num_bytes: int, batch_rows: int = 16
) -> float:
    """Cost in bits of all tokens within the loss mask of the first variants, over `num_bytes`
    (UTF-8). The end-of-text token counts too."""
    rows = [row for document in documents for row in document.variants[0]]
    rows.sort(key=lambda row: len(row.ids))
    nats = 0.0
    for start in range(0, len(rows), batch_rows):
        nats += _nats(network, rows[start : start + batch_rows])
    return nats / math.log(2) / num_bytes


@torch.no_grad()
def exact_share(network: Llama, documents: list[TokenizedDocument], batch_rows: int = 64) -> float:
    """Share of documents whose answer greedy decoding writes exactly.

    One forward pass decides it: greedy decoding writes the whole answer if and only if, with the
    answer as input, the best token at each position is the answer's next one. Only the first row
    of a document is looked at.
    """
    rows = [document.variants[0][0] for document in documents]
    rows.sort(key=lambda row: len(row.ids))
    num_exact = 0
    device = next(network.parameters()).device
    for start in range(0, len(rows), batch_rows):
        batch = pad(rows[start : start + batch_rows])
        loss_mask = torch.from_numpy(batch.loss_mask).to(device)
        hidden = network.hidden(torch.from_numpy(batch.inputs).to(device))[loss_mask]
        best = (hidden @ network.output_weight.T).argmax(dim=-1)
        wrong = torch.zeros_like(loss_mask)
        wrong[loss_mask] = best != torch.from_numpy(batch.targets).to(device)[loss_mask]
        num_exact += int((~wrong.any(dim=1)).sum())
    return num_exact / max(1, len(rows))


def _nats(network: Llama, rows: list[Row]) -> float:
    batch = pad(rows)
    device = next(network.parameters()).device
    targets = torch.from_numpy(batch.targets).to(device)
    losses = network.losses(torch.from_numpy(batch.inputs).to(device), targets)
    loss_mask = torch.from_numpy(batch.loss_mask).to(device)[targets >= 0]
    return float(losses[loss_mask].double().sum())


def _is_chat(document: Document) -> bool:
    return len(document.variants[0]) > 2  # a plain text has two segments


def _num_bytes(documents: list[Document]) -> int:
    return sum(
        len(without_control_tokens(segment.text).encode())
        for document in documents
        for segment in document.variants[0]
        if segment.in_loss
    )
