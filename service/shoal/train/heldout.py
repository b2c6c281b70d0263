"""Bits per byte on held-out text: comparable across tokenizers. Needs a network and rows only."""

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


def _nats(network: Llama, rows: list[TokenizedVariant]) -> float:
    batch = pad(rows)
    device = next(network.parameters()).device
    targets = torch.from_numpy(batch.targets).to(device)
    losses = network.losses(torch.from_numpy(batch.inputs).to(device), targets)
    learned = torch.from_numpy(batch.learned).to(device)[targets >= 0]
    return float(losses[learned].double().sum())
