"""A teacher that sees the order of words: a convolutional network over a trained embedding.

Kim 2014, "Convolutional neural networks for sentence classification": filters over one, two and
three tokens, the maximum of each over the text, much dropout; and the mean of all tokens.
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
_EMBEDDING_LR, _OTHER_LR = 1e-3, 2e-3
_MASKED_SHARE = 0.1  # of tokens in each epoch
_LABEL_SMOOTHING = 0.05
_MAX_TOKENS = 40  # of a text; the rest is cut
_CHUNK = 4096  # texts computed at a time


class PhraseTeacher:
    """Learns the intents of labelled texts; the mean of two networks with different seeds."""

    def __init__(
        self, texts: list[str], intents: list[str], tokenizer: Tokenizer, embedding: Tensor
    ) -> None:
        """embedding [vocab_size, hidden_size]"""
        self._tokenizer = tokenizer
        names = sorted(set(intents))
        classes = {name: index for index, name in enumerate(names)}
        labels = torch.tensor([classes[intent] for intent in intents])
        rows = self._rows(texts)
        self._networks = [_train(rows, labels, embedding, len(names), seed) for seed in (0, 1)]

    @torch.no_grad()
    def log_probs(self, texts: list[str]) -> NDArray[np.float32]:
        """[texts, intents in the order of their names] natural logarithms of probabilities."""
        rows = self._rows(texts)
        parts = []
        for start in range(0, len(rows), _CHUNK):
            tokens = _pad(rows[start : start + _CHUNK])
            logits = torch.stack([network(tokens) for network in self._networks])
            mean = logits.log_softmax(dim=-1).mean(dim=0)
            parts.append(mean.log_softmax(dim=-1).numpy())
        log_probs: NDArray[np.float32] = np.concatenate(parts)
        return log_probs

    def _rows(self, texts: list[str]) -> list[list[int]]:
        # 0 is padding, 1 a masked token
        encodings = self._tokenizer.encode_batch(
            [text.lower() for text in texts], add_special_tokens=False
        )
        return [[token + 2 for token in encoding.ids[:_MAX_TOKENS]] for encoding in encodings]


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
        """tokens [texts, length] -> logits [texts, intents]"""
        is_token = (tokens > 0)[..., None]
        x = functional.dropout(self.tokens(tokens), 0.3, self.training) * is_token
        mean = x.sum(dim=1) / is_token.sum(dim=1).clamp_min(1).sqrt()
        maxima = [functional.relu(convolve(x.mT)).amax(dim=2) for convolve in self.filters]
        features = functional.dropout(torch.cat([*maxima, mean], dim=1), 0.5, self.training)
        logits: Tensor = self.intents(features)
        return logits


def _train(
    rows: list[list[int]], labels: Tensor, embedding: Tensor, num_intents: int, seed: int
) -> _Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(embedding.detach().float().cpu(), num_intents)
        others = [weight for name, weight in network.named_parameters() if "tokens" not in name]
        optimizer = torch.optim.AdamW(
            [
                {"params": [network.tokens.weight], "lr": _EMBEDDING_LR},
                {"params": others, "lr": _OTHER_LR},
            ],
            weight_decay=0.01,
        )
        batches = list(_epochs(len(rows)))
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
        for batch in batches:
            tokens = _pad([rows[index] for index in batch.tolist()])
            masked = (torch.rand(tokens.shape) < _MASKED_SHARE) & (tokens > 0)
            logits = network(tokens.masked_fill(masked, 1))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=_LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            decay.step()
    return network.eval()


def _epochs(count: int) -> Iterator[Tensor]:
    """Batches of indices of all epochs."""
    for _ in range(_EPOCHS):
        yield from torch.split(torch.randperm(count), _ROWS)


def _pad(rows: list[list[int]]) -> Tensor:
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), max(longest, 1), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    return tokens
