"""An embedding in which tokens that differ only by a leading space share one row.

For tokenizers of style "fields", which split ` word` and `word` at the same places. Training only:
the export writes it out as a plain embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TwinEmbedding(nn.Module):
    """The vector of ` word` is that of `word` plus one vector, `space`, that all twins share.

    So a word is learned once for both spellings, and the loss is computed over rows, which are
    fewer than tokens. `weight` is the plain embedding that the exported model has.
    """

    row_of: Tensor  # [vocab_size] row of each token
    spaced: Tensor  # [vocab_size] 1 where a token is its row plus `space`
    has_twin: Tensor  # [rows] 1 where two tokens share the row

    def __init__(self, vocab_size: int, hidden_size: int, twins: dict[int, int]) -> None:
        """`twins`: id of a token with a leading space -> id of the same token without."""
        super().__init__()
        pairs = {spaced: bare for spaced, bare in twins.items() if bare not in twins}
        own_row = [token for token in range(vocab_size) if token not in pairs]
        rows = {token: row for row, token in enumerate(own_row)}
        row_of = torch.tensor([rows[pairs.get(token, token)] for token in range(vocab_size)])
        self.register_buffer("row_of", row_of, persistent=False)
        spaced = torch.tensor([float(token in pairs) for token in range(vocab_size)])
        self.register_buffer("spaced", spaced, persistent=False)
        has_twin = torch.zeros(len(own_row)).index_add(0, row_of, spaced)
        self.register_buffer("has_twin", has_twin, persistent=False)
        self.rows = nn.Parameter(torch.zeros(len(own_row), hidden_size))
        self.space = nn.Parameter(torch.zeros(hidden_size))

    @property
    def weight(self) -> Tensor:
        """[vocab_size, hidden_size]"""
        return self.rows[self.row_of] + self.spaced[:, None] * self.space

    def forward(self, token_ids: Tensor) -> Tensor:
        words = functional.embedding(self.row_of[token_ids], self.rows)
        return words + self.spaced[token_ids][..., None] * self.space

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy in nats of `targets` [count] with `weight` as the output layer.

        hidden [count, hidden_size]. A row's logit l and the space's s stand for one token, or for
        two: l and l + s.
        """
        space = hidden @ self.space
        both = self.has_twin * functional.softplus(space)[:, None]  # log(1 + e^s)
        logits = functional.linear(hidden, self.rows) + both
        rows = self.row_of[targets]
        of_row = functional.cross_entropy(logits, rows, reduction="none")
        of_space = self.has_twin[rows] * functional.softplus(space) - self.spaced[targets] * space
        return of_row + of_space

    @torch.no_grad()
    def load_plain(self, weight: Tensor) -> None:
        """Take over a plain embedding [vocab_size, hidden_size].

        Tokens without a leading space stay exact; `space` is the mean difference of the pairs.
        """
        bare, spaced = self.spaced == 0, self.spaced == 1
        self.rows[self.row_of[bare]] = weight[bare]
        self.space.copy_((weight - self.rows[self.row_of])[spaced].mean(dim=0))


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights under their Hugging Face names, the embedding as one matrix."""
    weights = {
        name: weight.detach()
        for name, weight in network.state_dict().items()
        if not name.endswith(("embed_tokens.rows", "embed_tokens.space"))
    }
    for name, module in network.named_modules():
        if isinstance(module, TwinEmbedding):
            weights[f"{name}.weight"] = module.weight.detach()
    return weights
