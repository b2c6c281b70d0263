"""A judge that reads words in their order: a convolutional network over a trained embedding.

Kim 2014, "Convolutional neural networks for sentence classification": filters over one, two and
three tokens, the strongest answer of each, much dropout. The mean of all tokens stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

_FILTERS, _WIDTHS = 256, (1, 2, 3)
_EPOCHS, _ROWS = 18, 128
_TOKEN_RATE, _OTHER_RATE = 1e-3, 2e-3
_UNKNOWN_SHARE = 0.1  # of tokens hidden in each reading
_SMOOTHING = 0.05  # of labels
_LONGEST = 40  # tokens of a text that are read
_AT_ONCE = 4096


class PhraseJudge:
    """Learns intents of labelled texts; two networks that begin differently speak together."""

    def __init__(
        self, texts: list[str], intents: list[str], tokenizer: Tokenizer, embedding: Tensor
    ) -> None:
        """embedding (vocabulary, size)"""
        self._tokenizer = tokenizer
        names = sorted(set(intents))
        places = {name: place for place, name in enumerate(names)}
        wanted = torch.tensor([places[intent] for intent in intents])
        rows = self._rows(texts)
        self._networks = [_train(rows, wanted, embedding, len(names), seed) for seed in (0, 1)]

    @torch.no_grad()
    def odds(self, texts: list[str]) -> NDArray[np.float32]:
        """(texts, intents in the order of their names) logarithms of probabilities"""
        rows = self._rows(texts)
        parts = []
        for start in range(0, len(rows), _AT_ONCE):
            tokens = _pad(rows[start : start + _AT_ONCE])
            said = torch.stack([network(tokens) for network in self._networks]).log_softmax(dim=-1)
            parts.append(said.mean(dim=0).log_softmax(dim=-1).numpy())
        found: NDArray[np.float32] = np.concatenate(parts)
        return found

    def _rows(self, texts: list[str]) -> list[list[int]]:
        # 0 stands for nothing, 1 for a token that is hidden
        encoded = self._tokenizer.encode_batch(
            [text.lower() for text in texts], add_special_tokens=False
        )
        return [[token + 2 for token in found.ids[:_LONGEST]] for found in encoded]


class _Network(nn.Module):
    def __init__(self, embedding: Tensor, num_intents: int) -> None:
        super().__init__()
        size = embedding.shape[1]
        tokens = torch.cat((torch.zeros(2, size), embedding / embedding.norm(dim=1).mean()))
        self.tokens = nn.Embedding(len(tokens), size, padding_idx=0, _weight=tokens)
        self.filters = nn.ModuleList(
            nn.Conv1d(size, _FILTERS, width, padding=width // 2) for width in _WIDTHS
        )
        self.intents = nn.Linear(len(_WIDTHS) * _FILTERS + size, num_intents)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (texts, length) -> (texts, intents)"""
        there = (tokens > 0)[..., None]
        read = functional.dropout(self.tokens(tokens), 0.3, self.training) * there
        mean = read.sum(dim=1) / there.sum(dim=1).clamp_min(1).sqrt()
        strongest = [functional.relu(found(read.mT)).amax(dim=2) for found in self.filters]
        seen = functional.dropout(torch.cat([*strongest, mean], dim=1), 0.5, self.training)
        answer: Tensor = self.intents(seen)
        return answer


def _train(
    rows: list[list[int]], wanted: Tensor, embedding: Tensor, num_intents: int, seed: int
) -> _Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(embedding.detach().float().cpu(), num_intents)
        others = [weight for name, weight in network.named_parameters() if "tokens" not in name]
        optimizer = torch.optim.AdamW(
            [
                {"params": [network.tokens.weight], "lr": _TOKEN_RATE},
                {"params": others, "lr": _OTHER_RATE},
            ],
            weight_decay=0.01,
        )
        batches = list(_epochs(len(rows)))
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
        for batch in batches:
            tokens = _pad([rows[place] for place in batch.tolist()])
            hidden = (torch.rand(tokens.shape) < _UNKNOWN_SHARE) & (tokens > 0)
            loss = functional.cross_entropy(
                network(tokens.masked_fill(hidden, 1)), wanted[batch], label_smoothing=_SMOOTHING
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            falling.step()
    return network.eval()


def _epochs(count: int) -> Iterator[Tensor]:
    for _ in range(_EPOCHS):
        yield from torch.split(torch.randperm(count), _ROWS)


def _pad(rows: list[list[int]]) -> Tensor:
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), max(longest, 1), dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens
