"""Held-out figures: bits per byte, comparable across tokenizers, and answers reproduced exactly.

Needs a network and rows only; figures through a server are in `evaluate.py`.
"""

from __future__ import annotations

import math

import torch

from shoal.train.network import Llama
from shoal.train.packing import TokenizedDocument, TokenizedVariant, pad


@torch.no_grad()
def bits_per_byte(
    network: Llama, documents: list[TokenizedDocument], num_bytes: int, batch_rows: int = 16
) -> float:
    """Total cost of the learned tokens of every document's first variant, in bits, over
    `num_bytes` (UTF-8). The end-of-text token is paid for too."""
    rows = [row for document in documents for row in document.variants[0]]
    rows.sort(key=lambda row: len(row.ids))
    nats = 0.0
    for start in range(0, len(rows), batch_rows):
        nats += _nats(network, rows[start : start + batch_rows])
    return nats / math.log(2) / num_bytes


@torch.no_grad()
def exact_share(network: Llama, documents: list[TokenizedDocument], batch_rows: int = 64) -> float:
    """Share of documents whose learned tokens greedy decoding writes exactly.

    With the reference before it, each position's best token is the reference's next one: that is
    the case exactly when greedy decoding reproduces the whole answer. Documents of one row only.
    """
    rows = [document.variants[0][0] for document in documents]
    rows.sort(key=lambda row: len(row.ids))
    right = 0
    device = next(network.parameters()).device
    for start in range(0, len(rows), batch_rows):
        batch = pad(rows[start : start + batch_rows])
        learned = torch.from_numpy(batch.learned).to(device)
        hidden = network.hidden(torch.from_numpy(batch.inputs).to(device))[learned]
        best = (hidden @ network.output_weight.T).argmax(dim=-1)
        wrong = torch.zeros_like(learned)
        wrong[learned] = best != torch.from_numpy(batch.targets).to(device)[learned]
        right += int((~wrong.any(dim=1)).sum())
    return right / max(1, len(rows))


def _nats(network: Llama, rows: list[TokenizedVariant]) -> float:
    batch = pad(rows)
    device = next(network.parameters()).device
    targets = torch.from_numpy(batch.targets).to(device)
    losses = network.losses(torch.from_numpy(batch.inputs).to(device), targets)
    learned = torch.from_numpy(batch.learned).to(device)[targets >= 0]
    return float(losses[learned].double().sum())
